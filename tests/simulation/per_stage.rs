//! Values that exist once for each stage, and the names that follow from the table of stages.

use std::{
    collections::BTreeMap,
    ops::{Index, IndexMut},
};

use instant_connect_worker::{contract::stage::StageDef, stages};

/// The prefix of all exchanges and queues.
pub(crate) const PREFIX: &str = "sim";

/// One value for each stage, by the stage's name.
#[derive(Debug)]
pub(crate) struct PerStage<T>(BTreeMap<&'static str, T>);

impl<T> PerStage<T> {
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.values_mut()
    }
}

impl<T: Default> Default for PerStage<T> {
    fn default() -> Self {
        Self(stages::ALL.iter().map(|stage| (stage.name, T::default())).collect())
    }
}

impl<T> Index<&str> for PerStage<T> {
    type Output = T;

    fn index(&self, stage: &str) -> &T {
        &self.0[stage]
    }
}

impl<T> IndexMut<&str> for PerStage<T> {
    fn index_mut(&mut self, stage: &str) -> &mut T {
        self.0.get_mut(stage).unwrap_or_else(|| unreachable!("stage {stage} is not in the table"))
    }
}

/// The name of the stage that consumes `queue`, or whose delay queue or dead queue `queue` is.
pub(crate) fn stage_of(queue: &str) -> Option<&'static str> {
    let name = queue.strip_prefix(PREFIX)?.strip_prefix('.')?;
    let is_of = |stage: &&&StageDef| {
        let rest = name.strip_prefix(stage.queue.name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    stages::ALL.iter().find(is_of).map(|stage| stage.name)
}

/// The name of the stage's API in the journal.
pub(crate) fn api_name(stage: &StageDef) -> String {
    let capitalised = |word: &str| word[..1].to_uppercase() + &word[1..];
    stage.upstream.key.split('-').map(capitalised).collect()
}
