//! The body of a request, read within limits.

use std::time::Duration;

use axum::body::Body;
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::{
    head,
    problem::{HttpProblem, RETRY_SOON},
};
use crate::contract::http::ProblemKind;

/// Maximum time for the body.
const BODY_MAX: Duration = Duration::from_secs(5);

/// Reads a body of at most `bytes_max` bytes.
pub(super) async fn read(body: Body, bytes_max: usize, deadline: Instant) -> Result<Vec<u8>, HttpProblem> {
    let mut bytes = Vec::new();
    let mut chunks = body.into_data_stream();
    let until = (Instant::now() + BODY_MAX).min(deadline);
    loop {
        match timeout_at(until, chunks.next()).await {
            Ok(None) => return Ok(bytes),
            Ok(Some(Ok(chunk))) if chunk.len() > bytes_max - bytes.len() => {
                return Err(head::too_large(bytes_max));
            }
            Ok(Some(Ok(chunk))) => bytes.extend_from_slice(&chunk),
            Ok(Some(Err(_))) => {
                return Err(HttpProblem::new(
                    ProblemKind::Malformed,
                    "the body ended early, or its chunks are malformed",
                ));
            }
            Err(_) => {
                let detail = format!("expected the whole body within {} s", BODY_MAX.as_secs());
                return Err(HttpProblem::new(ProblemKind::Slow, detail).retry_after(RETRY_SOON));
            }
        }
    }
}
