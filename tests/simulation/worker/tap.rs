//! Listens between the settlers and the publisher: the rules must know which confirms the worker has received.

use instant_connect_worker::broker::publisher::{PublishError, PublishJob, Publisher};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::world::Life;

/// A publisher that forwards to `publisher`, and its task.
pub(super) fn tap(life: Life, publisher: Publisher) -> (Publisher, JoinHandle<()>) {
    let (tapped, mut jobs) = Publisher::queue();
    let forwarding = tokio::spawn(async move {
        while let Some(job) = jobs.recv().await {
            tokio::spawn(forward(life.clone(), publisher.clone(), job));
        }
    });
    (tapped, forwarding)
}

async fn forward(life: Life, publisher: Publisher, job: PublishJob) {
    let PublishJob { publication, delivery, mut reply, room, turn } = job;
    let (answer, answered) = oneshot::channel();
    let job = PublishJob { publication: publication.clone(), delivery, reply: answer, room, turn };
    let answered = async {
        publisher.send(job).await?;
        answered.await.unwrap_or(Err(PublishError::Ended))
    };
    let result = tokio::select! {
        biased;
        result = answered => Some(result),
        () = reply.closed() => None,
    };
    // A dead worker does not get the result.
    life.point("at the result of a publish").await;
    let mut state = life.world.lock();
    // If the caller has given up, the worker does not get the result.
    let learnt = result.filter(|result| reply.send(*result).is_ok()).unwrap_or(Err(PublishError::Unknown));
    let name = state.checker.name(&publication.body).to_owned();
    state.log(format_args!("publish: {name} {learnt:?}"));
    state.checker.answered(&publication, learnt);
}
