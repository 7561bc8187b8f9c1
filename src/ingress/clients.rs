//! Who may call.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::warn;

use super::{
    client_tokens::{ClientTokens, digest_of},
    config::{AddressBlock, ClientConfig, ClientScope},
    rate::{AddressBuckets, BucketSize, ClientBuckets},
    rotating_lines::LineFileError,
};
use crate::telemetry::metrics::labels::AuthFailure;

/// Refused authentications per address: a few at once, then one every ten seconds.
const REFUSED: BucketSize = BucketSize { rate: 0.1, burst: 10.0 };

/// Reason that the clients' settings are unusable.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    /// A token file is unusable.
    #[error("{key}: {source}")]
    File { key: String, source: LineFileError },
    /// A token would not tell two clients apart.
    #[error("ingress.clients.{0} and ingress.clients.{1}: expected different tokens")]
    SameToken(String, String),
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    /// The name in the settings.
    pub(super) name: String,
    scopes: Vec<ClientScope>,
    tokens: ClientTokens,
    buckets: ClientBuckets,
    /// Permits for the client's requests in progress, so that one client leaves room for others.
    share: Semaphore,
    addresses: Vec<AddressBlock>,
}

/// All clients.
#[derive(Debug)]
pub struct Clients {
    all: Vec<Arc<Client>>,
    /// Permits for refused requests, also for receipts without a signature.
    pub(super) refused: AddressBuckets,
    /// Pairs of clients with the same token that were logged.
    shared: Mutex<BTreeSet<(String, String)>>,
}

/// A request that is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// Not authenticated.
    Unauthenticated(AuthFailure),
    /// Authenticated, and not allowed.
    Forbidden(AuthFailure),
    /// Too many refused requests from this address.
    Throttled(AuthFailure, Duration),
}

impl Clients {
    /// The clients of the settings. Their token files are read once as a test. One client may have half of `in_flight_max`
    /// requests in progress.
    ///
    /// # Errors
    /// [`ClientsError`].
    pub fn open(
        configured: &BTreeMap<String, ClientConfig>,
        in_flight_max: usize,
    ) -> Result<Self, ClientsError> {
        let share = (in_flight_max / 2).max(1);
        let mut clients: Vec<Arc<Client>> = Vec::new();
        for (name, config) in configured {
            let client = Client::open(name, config, share)?;
            if let Some(other) = clients.iter().find(|other| other.tokens.overlaps(&client.tokens)) {
                return Err(ClientsError::SameToken(other.name.clone(), client.name));
            }
            clients.push(Arc::new(client));
        }
        Ok(Self { all: clients, refused: AddressBuckets::new(REFUSED), shared: Mutex::default() })
    }

    /// The client that sent a request with this `Authorization` from `address`, if it has `scope`.
    ///
    /// A refused request takes a permit of its address. An address without permits still gets valid tokens accepted, because
    /// many clients may share a proxy's address.
    ///
    /// # Errors
    /// [`Denied`].
    pub(super) fn admit(
        &self,
        authorization: Option<&[u8]>,
        address: IpAddr,
        scope: ClientScope,
    ) -> Result<&Arc<Client>, Denied> {
        let client = bearer(authorization)
            .and_then(|token| self.find(token))
            .map_err(|failure| self.refuse(Denied::Unauthenticated(failure), failure, address))?;
        let addresses = &client.addresses;
        let failure = if !addresses.is_empty() && !addresses.iter().any(|block| block.contains(address)) {
            AuthFailure::Address
        } else if client.scopes.contains(&scope) {
            return Ok(client);
        } else {
            AuthFailure::Scope
        };
        Err(self.refuse(Denied::Forbidden(failure), failure, address))
    }

    /// Takes a permit of `address`; without one, the request is throttled.
    fn refuse(&self, denied: Denied, failure: AuthFailure, address: IpAddr) -> Denied {
        self.refused.take(address).map_or_else(|wait| Denied::Throttled(failure, wait), |()| denied)
    }

    /// Compares with all clients, also after a match. A token of several clients would let the first one act for the others.
    fn find(&self, token: &str) -> Result<&Arc<Client>, AuthFailure> {
        let digest = digest_of(token);
        let matching = |client: &&Arc<Client>| bool::from(client.tokens.matches(&digest));
        let found: Vec<_> = self.all.iter().filter(matching).collect();
        match found[..] {
            [client] => Ok(client),
            [] => Err(AuthFailure::Unknown),
            [first, second, ..] => {
                self.warn_of_shared_token(&first.name, &second.name);
                Err(AuthFailure::Shared)
            }
        }
    }

    fn warn_of_shared_token(&self, first: &str, second: &str) {
        let mut known = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if known.insert((first.to_owned(), second.to_owned())) {
            warn!(first, second, "ingress: two clients have the same token; refusing it for both");
        }
    }
}

impl Client {
    fn open(name: &str, config: &ClientConfig, share: usize) -> Result<Self, ClientsError> {
        let tokens = ClientTokens::open(&config.token, config.token_sha256, config.token_file.as_deref());
        let key = format!("ingress.clients.{name}.token_file");
        let size = BucketSize { rate: config.rate.get().into(), burst: config.burst.get().into() };
        Ok(Self {
            name: name.to_owned(),
            scopes: config.scopes.clone(),
            tokens: tokens.map_err(|source| ClientsError::File { key, source })?,
            buckets: ClientBuckets::new(size),
            share: Semaphore::new(share),
            addresses: config.allowed_addresses.clone(),
        })
    }

    /// Begins a request. `None` if too many requests of the client are in progress.
    pub(super) fn begin(&self) -> Option<SemaphorePermit<'_>> {
        self.share.try_acquire().ok()
    }

    /// Counts a request, or returns the time until the next one is allowed.
    pub(super) fn count(&self) -> Result<(), Duration> {
        self.buckets.take_request()
    }

    /// Counts the people who get a message because of a request, or returns the time until so many are allowed.
    pub(super) fn count_people(&self, people: usize) -> Result<(), Duration> {
        self.buckets.take_people(people)
    }

    /// Takes back the count of people who get no message.
    pub(super) fn uncount_people(&self, people: usize) {
        self.buckets.give_back(people);
    }
}

/// The token of an `Authorization` header.
fn bearer(header: Option<&[u8]>) -> Result<&str, AuthFailure> {
    let header = str::from_utf8(header.ok_or(AuthFailure::Missing)?).map_err(|_| AuthFailure::Malformed)?;
    let (scheme, token) = header.trim().split_once(' ').ok_or(AuthFailure::Malformed)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(AuthFailure::Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: [&str; 2] = ["icw_token-of-the-first-client", "icw_token-of-the-second-client"];

    fn config(token: &str, more: &str) -> ClientConfig {
        let base = serde_json::json!({
            "token_file": "", "token": token, "token_sha256": "", "scopes": ["start"],
            "rate": 1, "burst": 1, "allowed_addresses": []
        });
        let mut config = base;
        let more: serde_json::Value = serde_json::from_str(more).unwrap();
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        serde_json::from_value(config).unwrap()
    }

    fn clients(second: &str) -> Clients {
        let both = [("first", config(TOKENS[0], "{}")), ("second", config(TOKENS[1], second))];
        Clients::open(&both.map(|(name, config)| (name.to_owned(), config)).into(), 5).unwrap()
    }

    fn admit(clients: &Clients, authorization: &str) -> Result<String, Denied> {
        let address = "192.0.2.1".parse().unwrap();
        let client = clients.admit(Some(authorization.as_bytes()), address, ClientScope::Start)?;
        Ok(client.name.clone())
    }

    #[test]
    fn token_identifies_its_client() {
        let clients = clients("{}");
        assert_eq!(admit(&clients, &format!("Bearer {}", TOKENS[0])).unwrap(), "first");
        assert_eq!(admit(&clients, &format!("bearer  {} ", TOKENS[1])).unwrap(), "second");
        for (wrong, failure) in [
            (format!("Basic {}", TOKENS[0]), AuthFailure::Malformed),
            (TOKENS[0].to_owned(), AuthFailure::Malformed),
            ("Bearer".to_owned(), AuthFailure::Malformed),
            (format!("Bearer {}x", TOKENS[0]), AuthFailure::Unknown),
            (format!("Bearer {}", &TOKENS[0][..20]), AuthFailure::Unknown),
            (format!("Bearer {0} {0}", TOKENS[0]), AuthFailure::Unknown),
        ] {
            assert_eq!(admit(&clients, &wrong), Err(Denied::Unauthenticated(failure)), "{wrong}");
        }
    }

    #[test]
    fn address_with_many_refused_requests_is_throttled_and_valid_tokens_are_not() {
        let clients = clients("{}");
        for _ in 0..10 {
            assert!(matches!(admit(&clients, "Bearer guess"), Err(Denied::Unauthenticated(_))));
        }
        assert!(matches!(admit(&clients, "Bearer guess"), Err(Denied::Throttled(AuthFailure::Unknown, _))));
        assert!(admit(&clients, &format!("Bearer {}", TOKENS[0])).is_ok());
    }

    #[test]
    fn scope_and_address_are_checked_after_the_token() {
        let second = format!("Bearer {}", TOKENS[1]);
        for (settings, failure) in [
            (r#"{"scopes": []}"#, AuthFailure::Scope),
            (r#"{"allowed_addresses": ["10.0.0.0/8"]}"#, AuthFailure::Address),
        ] {
            let clients = clients(settings);
            assert_eq!(admit(&clients, &second), Err(Denied::Forbidden(failure)));
            assert!(admit(&clients, &format!("Bearer {}", TOKENS[0])).is_ok());
        }
        assert!(admit(&clients(r#"{"allowed_addresses": ["192.0.2.0/24"]}"#), &second).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn token_that_a_rotation_gives_to_two_clients_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), TOKENS[1]).unwrap();
        let clients = clients(&serde_json::json!({"token": "", "token_file": file.path()}).to_string());
        let both = [0, 1].map(|n| format!("Bearer {}", TOKENS[n]));
        assert!(admit(&clients, &both[0]).is_ok() && admit(&clients, &both[1]).is_ok());
        std::fs::write(file.path(), TOKENS.join("\n")).unwrap();
        // A file that was changed a moment ago may be half written.
        file.as_file().set_modified(std::time::SystemTime::now() - Duration::from_secs(60)).unwrap();
        tokio::time::advance(Duration::from_secs(2)).await;
        for _ in 0..2 {
            assert_eq!(admit(&clients, &both[0]), Err(Denied::Unauthenticated(AuthFailure::Shared)));
        }
        let logged: Vec<_> = clients.shared.lock().unwrap().iter().cloned().collect();
        assert_eq!(logged, [("first".to_owned(), "second".to_owned())]);
        assert_eq!(admit(&clients, &both[1]).unwrap(), "second", "the other token is still valid");
    }

    #[test]
    fn client_has_half_of_the_requests_in_progress_and_at_least_one() {
        let both = || [("first", config(TOKENS[0], "{}")), ("second", config(TOKENS[1], "{}"))];
        for (in_flight_max, share) in [(1, 1), (2, 1), (5, 2)] {
            let configured = both().map(|(name, config)| (name.to_owned(), config)).into();
            let clients = Clients::open(&configured, in_flight_max).unwrap();
            let taken: Vec<_> = (0..9).filter_map(|_| clients.all[0].begin()).collect();
            assert_eq!(taken.len(), share, "of {in_flight_max}");
            assert!(clients.all[1].begin().is_some(), "another client has its own share");
            drop(taken);
            assert!(clients.all[0].begin().is_some());
        }
    }

    #[test]
    fn two_clients_with_one_token_are_refused() {
        let both = ["a", "b"].map(|name| (name.to_owned(), config(TOKENS[0], "{}")));
        let error = Clients::open(&both.into(), 5).unwrap_err().to_string();
        assert!(error.contains("ingress.clients.a and ingress.clients.b"), "{error}");
        assert!(!error.contains(TOKENS[0]));
    }
}
