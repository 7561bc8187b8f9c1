//! An HTTPS server with HTTP/2 in front of the sandbox, with its own CA. Its connections can stop responding.

use std::{
    convert::Infallible,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::body::{Body, to_bytes};
use hyper::{Request, Response, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;

const BYTES_MAX: usize = 1024 * 1024;
/// The headers that are forwarded.
const HEADERS: [&str; 4] = ["authorization", "content-type", "trackingid", "traceparent"];

pub struct Https {
    pub url: String,
    /// Contains the CA's certificate.
    folder: TempDir,
    connections: Arc<AtomicU64>,
    /// Connections up to number `hung` get no responses; connections up to `frozen` are not read at all.
    hung: watch::Sender<u64>,
    frozen: watch::Sender<u64>,
}

impl Https {
    /// Forwards requests to `sandbox`. The certificate for `localhost` is valid until the end of `year`.
    pub async fn in_front_of(sandbox: String, year: i32) -> Self {
        // For the client that forwards requests. Err means that a provider is installed already, which is fine.
        _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let acceptor = acceptor(&folder, year);
        let https = Self {
            url: format!("https://localhost:{}", listener.local_addr().unwrap().port()),
            folder,
            connections: Arc::default(),
            hung: watch::Sender::new(0),
            frozen: watch::Sender::new(0),
        };
        let (connections, hung, frozen) =
            (Arc::clone(&https.connections), https.hung.subscribe(), https.frozen.subscribe());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = connections.fetch_add(1, Ordering::SeqCst) + 1;
                let connection = Connection {
                    number,
                    sandbox: sandbox.clone(),
                    hung: hung.clone(),
                    frozen: frozen.clone(),
                };
                tokio::spawn(connection.serve(acceptor.clone(), stream));
            }
        });
        https
    }

    pub fn ca_file(&self) -> String {
        self.folder.path().join("ca.pem").to_str().unwrap().to_owned()
    }

    /// Number of connections so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// Leaves requests on the present connections without a response. Later connections work.
    pub fn hang(&self) {
        self.hung.send_replace(self.connections());
    }

    /// Freezes the present connections without closing them, like a firewall that lost its state.
    pub fn freeze(&self) {
        self.frozen.send_replace(self.connections());
    }
}

fn acceptor(folder: &TempDir, year: i32) -> TlsAcceptor {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = date_time_ymd(year, 12, 31);
    let certificate = params.signed_by(&key, &ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config =
        builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

struct Connection {
    number: u64,
    sandbox: String,
    hung: watch::Receiver<u64>,
    frozen: watch::Receiver<u64>,
}

impl Connection {
    async fn serve(mut self, acceptor: TlsAcceptor, stream: TcpStream) {
        // A client that does not trust the certificate disconnects here.
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let (number, sandbox, hung) = (self.number, self.sandbox, self.hung);
        let service = service_fn(move |request| {
            let (sandbox, is_hung) = (sandbox.clone(), *hung.borrow() >= number);
            async move {
                if is_hung {
                    pending::<()>().await;
                }
                Ok::<_, Infallible>(relay(&sandbox, request).await)
            }
        });
        let serving =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
        tokio::pin!(serving);
        tokio::select! {
            _ = &mut serving => return,
            _ = self.frozen.wait_for(|last| *last >= number) => {}
        }
        // The connection stays open, but is never read again.
        pending::<()>().await;
    }
}

async fn relay(sandbox: &str, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let url = format!("{}{}", sandbox.trim_end_matches('/'), head.uri.path_and_query().unwrap());
    let mut onward = reqwest::Client::builder().no_proxy().build().unwrap().request(head.method, url);
    for (name, value) in head.headers.iter().filter(|(name, _)| HEADERS.contains(&name.as_str())) {
        onward = onward.header(name, value);
    }
    let body = to_bytes(Body::new(body), BYTES_MAX).await.unwrap();
    let answer = onward.body(body).send().await.unwrap();
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers().iter().filter(|(name, _)| HEADERS.contains(&name.as_str())) {
        response = response.header(name, value);
    }
    response.body(Body::from(answer.bytes().await.unwrap())).unwrap()
}
