//! The results of publishes as the worker receives them.

use instant_connect_worker::broker::publisher::{Publication, PublishError};

use super::{Checker, id_of, message_id};
use crate::per_stage::stage_of;

impl Checker {
    /// Records the result of a publish as the worker received it.
    pub(crate) fn answered(&mut self, publication: &Publication, result: Result<(), PublishError>) {
        let (message_id, link) = message_id(publication);
        let copy = publication.exchange.is_empty();
        let stage = stage_of(&publication.routing_key).unwrap_or_default();
        let copied = id_of(stage, message_id, &publication.body);
        let name = self.name(&publication.body).to_owned();
        for (id, seen) in &mut self.seen {
            let event = &self.events[seen.event];
            let its = if copy {
                *id == copied
            } else {
                seen.is_event() && name.ends_with(&format!(" of {}", event.session))
            };
            match result {
                _ if !its => {}
                Err(_) => {
                    seen.excuses += 1;
                    self.disturbances += 1;
                }
                // With two deliveries the publish may belong to either, even if the connection of one is gone.
                Ok(()) if seen.open != 1 || seen.may_publish_late => {}
                Ok(()) if copy => seen.copy_confirmed = true,
                Ok(()) => seen.confirmed.extend(link),
            }
        }
    }

    pub(crate) fn unroutable(&mut self, publication: &Publication) {
        self.count("returns");
        let (_, link) = message_id(publication);
        for seen in self.seen.values_mut() {
            let event = &self.events[seen.event];
            seen.unroutable |= event.links.iter().any(|wanted| Some(wanted.message_id) == link);
        }
    }
}
