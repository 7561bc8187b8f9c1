//! The evaluation of a run, in Jepsen's terms.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{
    edges::Evidence,
    history::{EXAMPLES, Fault, History},
};

/// The report of a run.
pub(crate) struct Report {
    pub(crate) json: Value,
    /// Violations of the promises.
    failures: Vec<String>,
}

impl History {
    /// The report so far, with the `evidence` of a run over both edges.
    pub(crate) fn report(&self, evidence: Option<&Evidence>) -> Report {
        let inner = self.inner();
        let lost = inner.lost();
        let all: Vec<f64> = inner.faults.values().flat_map(|fault| fault.recovered.iter().copied()).collect();
        let times = inner.faults.values().map(|fault| fault.times).sum();
        let mut faults: Map<_, _> =
            inner.faults.iter().map(|(what, fault)| ((*what).to_owned(), summary(fault))).collect();
        faults.insert("all".to_owned(), summary(&Fault { times, recovered: all }));
        let done = inner.records.iter().filter(|record| record.finished && record.dead == 0).count();
        let done = done - inner.edges.refused as usize;
        let mut json = json!({
            "sent": inner.confirmed, "published": inner.published,
            "done": done,
            "deadEvents": inner.records.iter().filter(|record| record.dead > 0).count(),
            "dead": inner.dead, "lost": lost.len(), "unexpected": inner.unexpected,
            "deadUnexplained": inner.dead_unexplained.len(), "deadRepeated": inner.dead_repeated,
            "guestLinks": inner.links, "guestLinksRedeliveredToUs": inner.redelivered,
            "repeatedSameId": inner.repeated_same_id, "repeatedOtherId": inner.repeated_other_id,
            "repeatedOtherLink": inner.other_link, "calls": inner.calls, "callsRepeated": inner.calls_repeated,
            "hostMessages": inner.messages,
            "hostMessagesRepeated": { "answerCut": inner.hosts_repeated_cut, "unexplained": inner.hosts_repeated },
            "seconds": self.begun.elapsed().as_secs(), "faults": faults,
        });
        let mut failures = Vec::new();
        if !lost.is_empty() {
            failures.push(format!("lost: {:?}", &lost[..lost.len().min(EXAMPLES)]));
        }
        if inner.unexpected > 0 {
            failures.push(format!("unexpected: {:#?}", inner.examples));
        }
        if !inner.dead_unexplained.is_empty() {
            failures.push(format!("unexplained dead letters: {:#?}", inner.dead_unexplained));
        }
        for (count, what) in [
            (inner.repeated_other_id, "repeats with another message_id"),
            (inner.other_link, "repeats with another link"),
            (inner.hosts_repeated, "host messages repeated although no response was cut"),
        ] {
            if count > 0 {
                failures.push(format!("{count} {what}"));
            }
        }
        if let (Some(evidence), Some(json)) = (evidence, json.as_object_mut()) {
            let kills = inner.faults.get("stages killed").map_or(0, |fault| fault.times);
            evidence.report(&inner.edges, kills.into(), json, &mut failures);
        }
        Report { json, failures }
    }
}

fn summary(fault: &Fault) -> Value {
    let mut times = fault.recovered.clone();
    times.sort_by(f64::total_cmp);
    let shown = |time: Option<&f64>| time.map(|time| (time * 100.0).round() / 100.0);
    json!({
        "times": fault.times,
        "recoverySeconds":
            {"count": times.len(), "median": shown(times.get(times.len() / 2)), "max": shown(times.last())},
    })
}

/// The rows about requests, messages and receipts.
fn edge_rows(json: &Value) -> [(&'static str, &Value); 15] {
    let edges = &json["edges"];
    let repeated = &edges["guestMessagesRepeated"];
    [
        ("requests that got 202 from the ingress", &json["sent"]),
        ("requests sent, with all repeats", &json["published"]),
        ("responses 202 to repeats, with `replayed`", &edges["replayed"]),
        ("events accepted twice as new, with the same id", &edges["newAgain"]),
        ("requests refused: invalid, or a device that is not allowed", &edges["refused"]),
        ("done: each guest's and the expert's message sent", &json["done"]),
        ("messages that Webex Connect accepted", &edges["guestMessages"]),
        ("of these, with a response that was cut or malformed", &edges["answersCut"]),
        ("messages not sent again because of a receipt", &edges["keptBackByReceipt"]),
        ("**sent twice** after a cut response without a receipt in time", &repeated["answerCut"]),
        (
            "**sent twice** after a call that was not recorded, without a receipt in time",
            &repeated["unrecorded"],
        ),
        ("**sent twice** for other reasons", &repeated["unexplained"]),
        ("dead letters of messages that may have been sent", &edges["deadMaybeSent"]),
        ("receipts confirmed by the ingress", &edges["receipts"]),
        ("receipts confirmed and not published", &edges["receiptsLost"]),
    ]
}

impl Report {
    /// The report as Markdown tables.
    pub(crate) fn table(&self) -> String {
        let json = &self.json;
        let hosts = &json["hostMessagesRepeated"];
        let mut table = "| events | |\n|---|--:|\n".to_owned();
        let edges = &json["edges"];
        let rows: &[(&str, &Value)] = if edges.is_null() {
            &[
                ("sent and confirmed by the broker", &json["sent"]),
                ("done: each guest link published, the expert's message sent", &json["done"]),
                ("dead letters: invalid, or a device that is not allowed", &json["deadEvents"]),
            ]
        } else {
            &edge_rows(json)
        };
        for (what, count) in rows.iter().copied().chain([
            ("**lost**", &json["lost"]),
            ("**unexpected**: swapped, not requested, dead without a reason", &json["unexpected"]),
            ("guest links repeated with the same `message_id`", &json["repeatedSameId"]),
            ("guest links repeated with another `message_id`", &json["repeatedOtherId"]),
            ("different links for one person", &json["repeatedOtherLink"]),
            ("messages to experts repeated after a cut response of Webex", &hosts["answerCut"]),
            ("messages to experts repeated for other reasons", &hosts["unexplained"]),
        ]) {
            _ = writeln!(table, "| {what} | {count} |");
        }
        table += "\n| fault | times | recovery time, median | maximum |\n|---|--:|--:|--:|\n";
        for (what, fault) in json["faults"].as_object().unwrap().iter().filter(|(what, _)| *what != "all") {
            let times = &fault["recoverySeconds"];
            let seconds =
                |time: &Value| time.as_f64().map_or("–".to_owned(), |time| format!("{time:.2} s"));
            let (median, max) = (seconds(&times["median"]), seconds(&times["max"]));
            _ = writeln!(table, "| {what} | {} | {median} | {max} |", fault["times"]);
        }
        _ = writeln!(table, "\n{} s in total.", json["seconds"]);
        table
    }

    /// Prints the report and panics if a promise is broken.
    pub(crate) fn assert(&self) {
        eprintln!("{}", self.table());
        assert!(self.failures.is_empty(), "{}\n{:#}", self.failures.join("\n"), self.json);
    }
}
