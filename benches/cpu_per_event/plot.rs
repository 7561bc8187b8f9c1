//! Bar charts as SVG.

use std::fmt::Write;

use super::{
    latency::Latency,
    report::{Costs, Rounds},
    stats::{Percentiles, Spread},
};

const HEIGHT: f64 = 260.0;
const TOP: f64 = 92.0;
const LEFT: f64 = 60.0;
const BAR: f64 = 52.0;
const GAP: f64 = 36.0;
const COLOURS: [&str; 6] = ["#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#9d755d"];

/// Bars side by side.
struct Group {
    title: String,
    /// The series of each bar, and its value with its range.
    bars: Vec<(usize, Spread)>,
}

/// A chart with a group of bars for each delay, and a line from the smallest to the largest value on each bar.
pub(crate) fn rounds(title: &str, rounds: &[Rounds], value: impl Fn(&Costs) -> Spread) -> String {
    let series: Vec<&str> = rounds[0].contenders.iter().map(|costs| costs.contender.title).collect();
    let place = |costs: &Costs| series.iter().position(|title| *title == costs.contender.title).unwrap();
    let group = |rounds: &Rounds| Group {
        title: format!("{} ms, {} at once", rounds.delay_ms, rounds.concurrency),
        bars: rounds.contenders.iter().map(|costs| (place(costs), value(costs))).collect(),
    };
    chart(title, &series, &rounds.iter().map(group).collect::<Vec<_>>())
}

/// A chart with a group of bars for each percentile.
pub(crate) fn latencies(latencies: &[Latency]) -> String {
    type Of = fn(&Percentiles) -> f64;
    let series: Vec<&str> = latencies.iter().map(|latency| latency.contender.title).collect();
    let percentiles: [(&str, Of); 3] = [("p50", |of| of.p50), ("p95", |of| of.p95), ("p99", |of| of.p99)];
    let group = |title: &str, value: &dyn Fn(&Latency) -> f64| Group {
        title: title.to_owned(),
        bars: latencies.iter().map(value).map(|value| Spread::of([value])).enumerate().collect(),
    };
    let mut groups = Vec::new();
    for (name, value) in percentiles {
        groups.push(group(&format!("guest {name}"), &|latency| value(&latency.guest)));
    }
    for (name, value) in percentiles {
        groups.push(group(&format!("expert {name}"), &|latency| value(&latency.expert)));
    }
    let title =
        format!("Time to guest's link and expert's message at {} events per second, ms", latencies[0].rate);
    chart(&title, &series, &groups)
}

fn chart(title: &str, series: &[&str], groups: &[Group]) -> String {
    let bars: usize = groups.iter().map(|group| group.bars.len()).sum();
    let width = (LEFT + pixels(bars) * BAR + pixels(groups.len() + 1) * GAP).max(620.0);
    let largest = groups.iter().flat_map(|group| &group.bars).map(|(_, spread)| spread.max);
    let scale = HEIGHT / (largest.fold(f64::MIN_POSITIVE, f64::max) * 1.08);
    let bottom = TOP + HEIGHT;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="{LEFT}" y="24" font-size="16">{title}</text>
<line x1="{LEFT}" y1="{bottom}" x2="{width}" y2="{bottom}" stroke="#333333"/>
"##,
        bottom + 40.0
    );
    for (n, name) in series.iter().enumerate() {
        let (x, y) = (LEFT + pixels(n % 3) * 180.0, 40.0 + pixels(n / 3) * 18.0);
        let (colour, text) = (COLOURS[n % COLOURS.len()], x + 16.0);
        writeln!(svg, r#"<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>"#).unwrap();
        writeln!(svg, r#"<text x="{text}" y="{}">{name}</text>"#, y + 10.0).unwrap();
    }
    let mut x = LEFT + GAP;
    for group in groups {
        let middle = x + pixels(group.bars.len()) * BAR / 2.0;
        let (y, title) = (bottom + 20.0, &group.title);
        writeln!(svg, r#"<text x="{middle}" y="{y}" text-anchor="middle">{title}</text>"#).unwrap();
        for (series, spread) in &group.bars {
            bar(&mut svg, x, scale, COLOURS[series % COLOURS.len()], spread);
            x += BAR;
        }
        x += GAP;
    }
    svg + "</svg>\n"
}

/// A bar with its value above.
fn bar(svg: &mut String, x: f64, scale: f64, colour: &str, spread: &Spread) {
    let [top, low, high] = [spread.median, spread.min, spread.max].map(|value| TOP + HEIGHT - value * scale);
    let (width, height, middle) = (BAR - 6.0, spread.median * scale, x + (BAR - 6.0) / 2.0);
    writeln!(
        svg,
        r##"<rect x="{x:.1}" y="{top:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}"/>
<line x1="{middle:.1}" y1="{low:.1}" x2="{middle:.1}" y2="{high:.1}" stroke="#333333"/>
<text x="{middle:.1}" y="{:.1}" text-anchor="middle">{:.*}</text>"##,
        high - 4.0,
        usize::from(spread.median < 100.0),
        spread.median
    )
    .unwrap();
}

fn pixels(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}
