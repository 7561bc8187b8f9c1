//! Classification of connection failures for the broker, Redis, Webex and the collector, with texts of this program. The
//! text of a library or a peer may repeat a URL with its password, so that text never leaves this module.
//! `dial` connects to a name that has several addresses, `http` has the HTTP client.

pub(crate) mod broker_url;
mod dial;
pub(crate) mod http;
pub(crate) mod redis_url;
pub(crate) mod url;

use std::{error::Error, fmt, io};

pub(crate) use dial::dial;

use rustls::{AlertDescription, CertificateError};

/// Cause of a failed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Obstacle {
    /// The name has no address.
    NameNotFound,
    /// Nothing listens there.
    Refused,
    /// No response within the time limit.
    TimedOut,
    /// No route.
    Unroutable,
    /// The peer closed the connection.
    Closed,
    /// The issuer of the certificate is not trusted.
    UnknownIssuer,
    /// The certificate has expired.
    Expired,
    /// The certificate is not valid yet.
    NotYetValid,
    /// The certificate is for other names.
    WrongName,
    /// The certificate is a CA certificate, not a server certificate.
    IssuerAsServer,
    /// The certificate can't be used for any other reason.
    BadCertificate,
    /// The peer requires a client certificate, but got none.
    ClientCertificateMissing,
    /// The peer does not accept our client certificate.
    ClientCertificateRefused,
    /// Both sides speak TLS, but have no version or cipher in common.
    NothingInCommon,
    /// The peer does not speak TLS.
    NotTls,
    /// A file that TLS needs can't be used.
    TlsFile,
    /// The proxy refused.
    Proxy,
    /// The proxy itself can't be reached.
    ProxyDown,
    /// The proxy requires a user and a password.
    ProxyLogin,
    /// Anything else.
    Other,
}

impl Obstacle {
    /// Classifies `error` by its innermost known cause.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let mut found = Self::Other;
        let mut next = Some(error);
        // The innermost known cause is the most specific.
        while let Some(error) = next {
            if let Some(obstacle) = Self::of_one(error) {
                found = obstacle;
            }
            // Inner causes concern the connection to the proxy, but would read like causes at the server.
            if found == Self::ProxyDown {
                break;
            }
            next = inner(error);
        }
        found
    }

    fn of_one(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(Self::of_tls(error));
        }
        if let Some(error) = error.downcast_ref::<io::Error>()
            && let Some(obstacle) = Self::of_io(error.kind())
        {
            return Some(obstacle);
        }
        // Some libraries expose a cause only in their text, which is compared here and never shown.
        let text = error.to_string();
        [
            ("failed to lookup address", Self::NameNotFound),
            ("dns error", Self::NameNotFound),
            ("tunnel error: proxy authorization required", Self::ProxyLogin),
            ("tunnel error: unsuccessful", Self::Proxy),
            ("tunnel error: unexpected end of file", Self::Proxy),
            ("tunnel error: failed to create underlying connection", Self::ProxyDown),
            ("operation timed out", Self::TimedOut),
            ("deadline has elapsed", Self::TimedOut),
        ]
        .into_iter()
        .find_map(|(part, obstacle)| text.starts_with(part).then_some(obstacle))
    }

    /// Classifies an I/O error kind.
    #[must_use]
    pub const fn of_io(kind: io::ErrorKind) -> Option<Self> {
        Some(match kind {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unroutable,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => return None,
        })
    }

    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::of_certificate(error),
            rustls::Error::AlertReceived(alert) => Self::of_alert(*alert),
            rustls::Error::InvalidMessage(_)
            | rustls::Error::InappropriateMessage { .. }
            | rustls::Error::InappropriateHandshakeMessage { .. } => Self::NotTls,
            rustls::Error::PeerIncompatible(_) => Self::NothingInCommon,
            rustls::Error::UnsupportedNameType => Self::WrongName,
            rustls::Error::Other(error)
                if inner(&error.0).is_none() && error.0.is::<crate::tls::TlsError>() =>
            {
                Self::TlsFile
            }
            _ => Self::Other,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            // BadSignature: another CA with the same name, for example a CA that was created again.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownIssuer,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::WrongName
            }
            // rustls has no variant for this webpki error.
            CertificateError::Other(error) if error.0.to_string() == "CaUsedAsEndEntity" => {
                Self::IssuerAsServer
            }
            _ => Self::BadCertificate,
        }
    }

    const fn of_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
                Self::ClientCertificateMissing
            }
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied => Self::ClientCertificateRefused,
            AlertDescription::ProtocolVersion
            | AlertDescription::HandshakeFailure
            | AlertDescription::InsufficientSecurity
            | AlertDescription::NoApplicationProtocol => Self::NothingInCommon,
            AlertDescription::UnrecognisedName => Self::WrongName,
            _ => Self::Other,
        }
    }

    /// The cause as text, to follow the name of the peer.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NameNotFound => "the name does not resolve",
            Self::Refused => "connection refused",
            Self::TimedOut => "no response within the time limit",
            Self::Unroutable => "no route to the host",
            Self::Closed => "the peer closed the connection",
            Self::UnknownIssuer => "the server's certificate has an unknown issuer",
            Self::Expired => "the server's certificate has expired",
            Self::NotYetValid => "the server's certificate is not valid yet",
            Self::WrongName => "the server's certificate is for another name",
            Self::IssuerAsServer => "the server's certificate is a CA certificate",
            Self::BadCertificate => "the server's certificate is not usable",
            Self::ClientCertificateMissing => "the server requires a client certificate",
            Self::ClientCertificateRefused => "the server refused the client certificate",
            Self::NothingInCommon => "no TLS version or cipher in common",
            Self::NotTls => "the peer does not speak TLS",
            Self::TlsFile => "a TLS file is not usable",
            Self::Proxy => "the proxy refused the connection",
            Self::ProxyDown => "no connection to the proxy",
            Self::ProxyLogin => "the proxy requires a user and a password",
            Self::Other => "the connection failed",
        }
    }

    /// Advice for this cause.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::NameNotFound => "check the spelling of the host, and DNS (resolv.conf, search domains)",
            Self::Refused => "check the port, and that the server is running",
            Self::TimedOut => "check the host and port, firewalls and network policies",
            Self::Unroutable => "check the network, and that the host has no unreachable IPv6 addresses",
            Self::Closed => "check the port, if the port expects TLS, and the server's log",
            Self::UnknownIssuer => "add the CA of the server's certificate (PEM) to the file in tls.ca_file",
            Self::Expired => "renew the server's certificate, and check this machine's clock",
            Self::NotYetValid => "check this machine's clock, and the server's certificate",
            Self::WrongName => "use a host name that the server's certificate contains",
            Self::IssuerAsServer => {
                "give the server a certificate that its CA issued; put the CA certificate into tls.ca_file, not the server's"
            }
            Self::BadCertificate => "check the server's certificate (openssl s_client -connect HOST:PORT)",
            Self::ClientCertificateMissing => "set amqp.client_cert_file and amqp.client_key_file",
            Self::ClientCertificateRefused => {
                "check that the server trusts the CA of the client certificate, and check the certificate's dates"
            }
            Self::NothingInCommon => {
                "enable TLS 1.2 or 1.3 on the server; check if the server requires a client certificate"
            }
            Self::NotTls => "check the port and the scheme: the client used TLS on a port without TLS",
            Self::TlsFile => "check tls.ca_file, amqp.client_cert_file and amqp.client_key_file",
            Self::Proxy => "check the proxy and its rules; NO_PROXY lists hosts that need no proxy",
            Self::ProxyDown => "check HTTPS_PROXY, and that the proxy is running",
            Self::ProxyLogin => "add user and password to HTTPS_PROXY (http://user:password@proxy:port)",
            Self::Other => "check the host, the port, TLS, and the server's log",
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The cause of `error`. For an I/O error this is the carried error, which `source` of the standard library skips.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(carried) => Some(carried),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn obstacle_is_the_innermost_known_cause() {
        let tls =
            |error| io::Error::new(io::ErrorKind::InvalidData, rustls::Error::InvalidCertificate(error));
        for (error, expected) in [
            (io::ErrorKind::ConnectionRefused.into(), Obstacle::Refused),
            (io::Error::other(tls(CertificateError::UnknownIssuer)), Obstacle::UnknownIssuer),
            (tls(CertificateError::Expired), Obstacle::Expired),
            (tls(CertificateError::NotValidForName), Obstacle::WrongName),
            (io::Error::other("failed to lookup address information: unknown"), Obstacle::NameNotFound),
            (io::Error::other("tunnel error: unsuccessful"), Obstacle::Proxy),
            (io::Error::other("amqp://u:s3cret@h"), Obstacle::Other),
        ] {
            assert_eq!(Obstacle::of(&error), expected, "{error:?}");
        }
    }
}
