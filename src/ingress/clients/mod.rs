//! Who may call.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use subtle::Choice;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::warn;

use super::{
    client_signatures::{ClientSecrets, GivenSignature},
    client_tokens::{ClientTokens, digest_of},
    config::{AddressBlock, ClientConfig, ClientScope},
    rate::{AddressBuckets, BucketSize, ClientBuckets},
    rotating_lines::LineFileError,
};
use crate::telemetry::metrics::labels::AuthFailure;

/// Permits per address, for refused authentications and for log lines: a few at once, then one every ten seconds.
const REFUSED: BucketSize = BucketSize { rate: 0.1, burst: 10.0 };
/// Log lines about clients that a rotation made the same.
const SHARED_TOKEN: &str = "ingress: two clients have the same token; refusing it for both";
const SHARED_SECRET: &str = "ingress: two clients have the same signing secret; refusing it for both";

/// Reason that the clients' settings are unusable.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    /// A token file or a secret file is unusable.
    #[error("{key}: {source}")]
    File { key: String, source: LineFileError },
    /// A token would not tell two clients apart.
    #[error("ingress.clients.{0} and ingress.clients.{1}: expected different tokens")]
    SameToken(String, String),
    /// A signature would not tell two clients apart.
    #[error("ingress.clients.{0} and ingress.clients.{1}: expected different signing secrets")]
    SameSecret(String, String),
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    /// The name in the settings.
    pub(super) name: String,
    scopes: Vec<ClientScope>,
    tokens: ClientTokens,
    secrets: ClientSecrets,
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
    /// Permits for log lines about receipts that are not accepted because of our own failures.
    pub(super) reported: AddressBuckets,
    /// Permits for signed requests whose signature is not checked yet. Anybody can send them, so they must leave room for others.
    pub(super) unverified: Semaphore,
    /// Pairs of clients with the same token or secret, each with its log line.
    shared: Mutex<BTreeSet<(&'static str, String, String)>>,
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
    /// The clients of the settings. Their files are read once as a test. One client may have half of `in_flight_max` requests in
    /// progress. A quarter more may be signed and not verified.
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
            if let Some(other) = clients.iter().find(|other| other.secrets.overlap(&client.secrets)) {
                return Err(ClientsError::SameSecret(other.name.clone(), client.name));
            }
            clients.push(Arc::new(client));
        }
        Ok(Self {
            all: clients,
            refused: AddressBuckets::new(REFUSED),
            reported: AddressBuckets::new(REFUSED),
            unverified: Semaphore::new((in_flight_max / 4).max(1)),
            shared: Mutex::default(),
        })
    }

    /// True if a client may sign its requests.
    pub(super) fn may_sign(&self) -> bool {
        self.all.iter().any(|client| client.secrets.is_set())
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
        let found = bearer(authorization).and_then(|token| {
            let digest = digest_of(token);
            self.find(|client| client.tokens.matches(&digest), AuthFailure::Unknown, SHARED_TOKEN)
        });
        self.allow(found, address, scope)
    }

    /// The client that signed `body`, if it has `scope`. A refused request takes a permit of its address.
    ///
    /// # Errors
    /// [`Denied`].
    pub(super) fn admit_signed(
        &self,
        given: &GivenSignature,
        body: &[u8],
        address: IpAddr,
        scope: ClientScope,
    ) -> Result<&Arc<Client>, Denied> {
        let matching = |client: &Client| client.secrets.match_signature(given, body);
        self.allow(self.find(matching, AuthFailure::Signature, SHARED_SECRET), address, scope)
    }

    /// Checks what does not depend on the kind of authentication.
    fn allow<'a>(
        &self,
        found: Result<&'a Arc<Client>, AuthFailure>,
        address: IpAddr,
        scope: ClientScope,
    ) -> Result<&'a Arc<Client>, Denied> {
        let client = found.map_err(|failure| self.refuse(failure, address))?;
        let addresses = &client.addresses;
        let failure = if !addresses.is_empty() && !addresses.iter().any(|block| block.contains(address)) {
            AuthFailure::Address
        } else if client.scopes.contains(&scope) {
            return Ok(client);
        } else {
            AuthFailure::Scope
        };
        Err(self.refuse(failure, address))
    }

    /// Takes a permit of `address`; without one, the request is throttled.
    pub(super) fn refuse(&self, failure: AuthFailure, address: IpAddr) -> Denied {
        match self.refused.take(address) {
            Err(wait) => Denied::Throttled(failure, wait),
            Ok(()) if matches!(failure, AuthFailure::Address | AuthFailure::Scope) => {
                Denied::Forbidden(failure)
            }
            Ok(()) => Denied::Unauthenticated(failure),
        }
    }

    /// Compares with all clients, also after a match. A token or a secret of several clients would let the first one act for the others.
    fn find(
        &self,
        matching: impl Fn(&Client) -> Choice,
        unknown: AuthFailure,
        shared: &'static str,
    ) -> Result<&Arc<Client>, AuthFailure> {
        let found: Vec<_> = self.all.iter().filter(|client| matching(client).into()).collect();
        match found[..] {
            [client] => Ok(client),
            [] => Err(unknown),
            [first, second, ..] => {
                self.warn_of_shared(shared, &first.name, &second.name);
                Err(AuthFailure::Shared)
            }
        }
    }

    fn warn_of_shared(&self, line: &'static str, first: &str, second: &str) {
        let mut known = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if known.insert((line, first.to_owned(), second.to_owned())) {
            warn!(first, second, "{line}");
        }
    }
}

impl Client {
    fn open(name: &str, config: &ClientConfig, share: usize) -> Result<Self, ClientsError> {
        let tokens = ClientTokens::open(&config.token, config.token_sha256, config.token_file.as_deref());
        let secrets = ClientSecrets::open(&config.signing_secret, config.signing_secret_file.as_deref());
        let failed = |key: &'static str| {
            move |source| ClientsError::File { key: format!("ingress.clients.{name}.{key}"), source }
        };
        let size = BucketSize { rate: config.rate.get().into(), burst: config.burst.get().into() };
        Ok(Self {
            name: name.to_owned(),
            scopes: config.scopes.clone(),
            tokens: tokens.map_err(failed("token_file"))?,
            secrets: secrets.map_err(failed("signing_secret_file"))?,
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
mod tests;
