//! Every sequence of operations gives the same results as a simple model.

use std::collections::HashMap;

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::*;

const KEYS: usize = 2;

#[derive(Clone, Debug)]
enum Op {
    Claim { key: usize, body: u8 },
    Note { key: usize, note: u8, lives: bool },
    Record { key: usize, result: u8, lives: bool },
    Release { key: usize },
    Drop { key: usize },
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..KEYS;
    prop_oneof![
        6 => (key.clone(), 1..=2_u8).prop_map(|(key, body)| Op::Claim { key, body }),
        3 => (key.clone(), 0..3_u8, prop::bool::weighted(0.7))
            .prop_map(|(key, note, lives)| Op::Note { key, note, lives }),
        2 => (key.clone(), 0..3_u8, prop::bool::weighted(0.6))
            .prop_map(|(key, result, lives)| Op::Record { key, result, lives }),
        1 => key.clone().prop_map(|key| Op::Release { key }),
        3 => key.prop_map(|key| Op::Drop { key }),
        1 => Just(Op::Reopen),
    ]
}

/// The entry of each key: body, true for a result, value.
type Kept = HashMap<usize, (u8, bool, u8)>;

struct Run<'a, L> {
    place: &'a L,
    ledger: Ledger,
    /// Makes the keys of each case different, because Redis keeps them between cases.
    case: u32,
    kept: Kept,
    held: HashMap<usize, (u8, Lease)>,
}

impl<L: Location> Run<'_, L> {
    async fn step(&mut self, op: &Op) {
        let until = |lives: bool| if lives { later() } else { past() };
        match *op {
            Op::Claim { key, body } => self.claim(key, body).await,
            Op::Note { key, note, lives } => {
                if let Some((body, lease)) = self.held.get_mut(&key) {
                    lease.write_note(&[note], until(lives)).await.unwrap();
                    let kept = lives.then_some((*body, false, note));
                    self.keep(key, kept);
                }
            }
            Op::Record { key, result, lives } => {
                if let Some((body, lease)) = self.held.remove(&key) {
                    finish(lease, &[result], until(lives)).await.unwrap();
                    self.keep(key, lives.then_some((body, true, result)));
                }
            }
            Op::Release { key } => {
                if let Some((_, lease)) = self.held.remove(&key) {
                    lease.release().await.unwrap();
                    self.keep(key, None);
                }
            }
            Op::Drop { key } => drop(self.held.remove(&key)),
            Op::Reopen if !self.place.is_durable() => {}
            Op::Reopen => {
                self.held.clear();
                self.ledger.close().await;
                self.ledger = self.place.open().await;
            }
        }
    }

    fn keep(&mut self, key: usize, kept: Option<(u8, bool, u8)>) {
        match kept {
            Some(kept) => _ = self.kept.insert(key, kept),
            None => _ = self.kept.remove(&key),
        }
    }

    async fn claim(&mut self, key: usize, body: u8) {
        let held = self.held.get(&key).map(|(body, _)| *body);
        // A key that nobody holds may still have to wait until Redis knows of the drop.
        let patience = if held.is_some() { Duration::ZERO } else { LONG };
        let name = format!("{}/{key}", self.case);
        let claim = self.ledger.claim(&name, [body; 32], patience).await.unwrap();
        match (held, self.kept.get(&key), claim) {
            (Some(held), _, Claim::Conflict) => assert_ne!(held, body),
            (Some(held), _, Claim::Busy) => assert_eq!(held, body),
            (None, Some((kept, ..)), Claim::Conflict) => assert_ne!(*kept, body),
            (None, Some((kept, true, value)), Claim::Recorded(result)) => {
                assert_eq!((*kept, vec![*value]), (body, result));
            }
            (None, Some((kept, false, value)), Claim::Mine(lease)) => {
                assert_eq!((*kept, lease.note()), (body, Some(&[*value][..])));
                self.held.insert(key, (body, lease));
            }
            (None, None, Claim::Mine(lease)) => {
                assert_eq!(lease.note(), None);
                self.held.insert(key, (body, lease));
            }
            (held, kept, claim) => panic!("held {held:?}, kept {kept:?}, but {claim:?}"),
        }
    }
}

pub(crate) fn assert_matches_model(place: &impl Location, cases: u32) {
    let runtime = place.runtime();
    let case = std::cell::Cell::new(0);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&prop::collection::vec(op(), 1..40), |ops| {
            case.set(case.get() + 1);
            runtime.block_on(async {
                let ledger = place.open().await;
                let (kept, held) = (HashMap::new(), HashMap::new());
                let mut run = Run { place, ledger, case: case.get(), kept, held };
                for op in &ops {
                    run.step(op).await;
                }
                run.held.clear();
                run.ledger.close().await;
            });
            Ok(())
        })
        .unwrap();
}
