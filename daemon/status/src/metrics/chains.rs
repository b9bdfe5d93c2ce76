//! Pipelines, filters, candidates, decoders.

use super::{Exposition, Label, seconds};
use crate::view::{
    CandidateStatus, FilterFailures, FilterState, FilterStatus, PipelineStatus, Snapshot,
    TickStatus,
};

pub(super) fn pipelines(out: &mut Exposition, snapshot: &Snapshot) {
    let pipelines = &snapshot.pipelines;
    let mut counter = |name, help, value: fn(&PipelineStatus) -> u64| {
        let mut family = out.counter(name, help);
        for pipeline in pipelines {
            family.sample(&[("pipeline", &pipeline.name)], value(pipeline));
        }
    };
    counter(
        "tidegate_pipeline_readings_selected_total",
        "Readings that entered.",
        |p| p.selected,
    );
    counter(
        "tidegate_pipeline_readings_derived_total",
        "Readings that filters added.",
        |p| p.derived,
    );
    counter(
        "tidegate_pipeline_readings_replayed_total",
        "Readings that entered again from quarantine.",
        |p| p.replayed,
    );
    counter(
        "tidegate_pipeline_readings_stored_total",
        "Readings that came through.",
        |p| p.stored,
    );
    counter(
        "tidegate_pipeline_readings_filtered_total",
        "Readings that filters took out.",
        |p| p.filtered,
    );
    counter(
        "tidegate_pipeline_readings_quarantined_total",
        "Readings set aside.",
        |p| p.quarantined,
    );
    let mut family = out.counter(
        "tidegate_pipeline_readings_dropped_total",
        "Readings dropped, by reason.",
    );
    for pipeline in pipelines {
        for (reason, count) in &pipeline.dropped {
            family.sample(&[("pipeline", &pipeline.name), ("reason", reason)], count);
        }
    }
    let mut family = out.gauge("tidegate_pipeline_open_windows", "Windows that are open.");
    for pipeline in pipelines {
        family.sample(&[("pipeline", &pipeline.name)], pipeline.windows_open);
    }
    let mut family = out.gauge(
        "tidegate_pipeline_generation_info",
        "Always 1; the label names the chain that runs.",
    );
    for pipeline in pipelines {
        let labels: [Label; 2] = [
            ("pipeline", &pipeline.name),
            ("generation", &pipeline.generation),
        ];
        family.sample(&labels, 1);
    }
}

pub(super) fn filters(out: &mut Exposition, snapshot: &Snapshot) {
    let slots = || {
        snapshot.pipelines.iter().flat_map(|pipeline| {
            pipeline
                .filters
                .iter()
                .map(move |filter| (&pipeline.name, filter))
        })
    };
    let mut family = out.gauge(
        "tidegate_filter_info",
        "Always 1; the labels say what runs in the slot.",
    );
    for (pipeline, filter) in slots() {
        let labels: [Label; 5] = [
            ("pipeline", pipeline),
            ("filter", &filter.name),
            ("module", &filter.module),
            ("version", &filter.version),
            ("digest", &filter.digest),
        ];
        family.sample(&labels, 1);
    }
    let mut family = out.gauge(
        "tidegate_filter_tripped",
        "1 while the filter is switched off after repeated failure.",
    );
    for (pipeline, filter) in slots() {
        let tripped = filter.state == FilterState::Tripped;
        family.sample(
            &[("pipeline", pipeline), ("filter", &filter.name)],
            u8::from(tripped),
        );
    }
    let mut counter = |name, help, value: fn(&FilterStatus) -> u64| {
        let mut family = out.counter(name, help);
        for (pipeline, filter) in slots() {
            family.sample(
                &[("pipeline", pipeline), ("filter", &filter.name)],
                value(filter),
            );
        }
    };
    counter(
        "tidegate_filter_rows_in_total",
        "Rows that entered the filter.",
        |f| f.rows_in,
    );
    counter(
        "tidegate_filter_rows_out_total",
        "Rows that left the filter, derived ones included.",
        |f| f.rows_out,
    );
    counter("tidegate_filter_calls_total", "Calls made.", |f| f.calls);
    counter(
        "tidegate_filter_skipped_batches_total",
        "Batches and ticks that it was not asked about because it was switched off.",
        |f| f.skipped_batches,
    );
    let mut ticks = |name, help, value: fn(TickStatus) -> u64| {
        let mut family = out.counter(name, help);
        for (pipeline, filter) in slots() {
            if let Some(ticks) = filter.ticks {
                let labels: [Label; 2] = [("pipeline", pipeline), ("filter", &filter.name)];
                family.sample(&labels, value(ticks));
            }
        }
    };
    ticks(
        "tidegate_filter_ticks_total",
        "Ticks on which the filter was called; only of filters that have ticks.",
        |t| t.called,
    );
    ticks(
        "tidegate_filter_ticks_failed_total",
        "Ticks that failed, as a whole or for some of the series.",
        |t| t.failed,
    );
    ticks(
        "tidegate_filter_ticks_derived_total",
        "Rows that ticks added.",
        |t| t.derived,
    );
    let mut family = out.counter(
        "tidegate_filter_failures_total",
        "Calls that failed, by kind.",
    );
    for (pipeline, filter) in slots() {
        for (kind, count) in kinds(filter.failures) {
            let labels: [Label; 3] = [
                ("pipeline", pipeline),
                ("filter", &filter.name),
                ("kind", &kind),
            ];
            family.sample(&labels, count);
        }
    }
    let mut family = out.gauge(
        "tidegate_filter_call_seconds",
        "Duration of a call of late, by quantile; absent before the first.",
    );
    for (pipeline, filter) in slots() {
        for (quantile, value) in [("0.5", filter.p50_seconds), ("0.99", filter.p99_seconds)] {
            if let Some(value) = value {
                let labels: [Label; 3] = [
                    ("pipeline", pipeline),
                    ("filter", &filter.name),
                    ("quantile", &quantile),
                ];
                family.sample(&labels, value);
            }
        }
    }
}

pub(super) fn rollouts(out: &mut Exposition, snapshot: &Snapshot) {
    let pipelines = &snapshot.pipelines;
    let mut family = out.gauge(
        "tidegate_rollout_state",
        "1 for the state that the pipeline's generations are in: active alone, or with a candidate as canary or shadow.",
    );
    for pipeline in pipelines {
        for state in ["active", "canary", "shadow"] {
            family.sample(
                &[("pipeline", &pipeline.name), ("state", &state)],
                u8::from(pipeline.rollout.state == state),
            );
        }
    }
    let tried = || {
        pipelines.iter().filter_map(|pipeline| {
            let candidate = pipeline.rollout.candidate.as_ref()?;
            Some((&pipeline.name, candidate))
        })
    };
    let mut family = out.gauge(
        "tidegate_rollout_candidate_info",
        "Always 1; the labels say what is tried in the slot. Absent without a candidate.",
    );
    for (pipeline, candidate) in tried() {
        for filter in &candidate.filters {
            let labels: [Label; 6] = [
                ("pipeline", pipeline),
                ("filter", &filter.name),
                ("module", &filter.module),
                ("version", &filter.version),
                ("digest", &filter.digest),
                ("generation", &candidate.generation),
            ];
            family.sample(&labels, 1);
        }
    }
    let mut gauge = |name, help, value: fn(&CandidateStatus) -> f64| {
        let mut family = out.gauge(name, help);
        for (pipeline, candidate) in tried() {
            family.sample(&[("pipeline", pipeline)], value(candidate));
        }
    };
    gauge(
        "tidegate_rollout_series_share",
        "The part of the series that a candidate speaks for; 0 for a shadow.",
        |c| c.share.unwrap_or(0.0),
    );
    gauge(
        "tidegate_rollout_samples",
        "Readings that both generations judged.",
        |c| real(c.samples),
    );
    gauge(
        "tidegate_rollout_samples_needed",
        "Readings that the verdict needs.",
        |c| real(c.min_samples),
    );
    gauge(
        "tidegate_rollout_compared",
        "Readings and alarms that came out of either generation.",
        |c| real(c.compared),
    );
    gauge(
        "tidegate_rollout_remaining_seconds",
        "Until a candidate without its readings is put back.",
        |c| real(c.seconds_left),
    );
    let mut family = out.gauge(
        "tidegate_rollout_differing",
        "What came out otherwise from the candidate, by kind.",
    );
    for (pipeline, candidate) in tried() {
        let by = candidate.differing_by;
        for (kind, count) in [
            ("float", by.float),
            ("integer", by.integer),
            ("boolean", by.boolean),
            ("text", by.text),
            ("alarm", by.alarm),
        ] {
            family.sample(&[("pipeline", pipeline), ("kind", &kind)], count);
        }
    }
    let sides = || {
        tried().flat_map(|(pipeline, c)| {
            let active = (
                c.active_failures,
                c.active_cpu_p99_seconds,
                c.active_memory_peak_bytes,
            );
            let candidate = (c.failures, c.cpu_p99_seconds, c.memory_peak_bytes);
            [
                (pipeline, "active", active),
                (pipeline, "candidate", candidate),
            ]
        })
    };
    let mut family = out.gauge(
        "tidegate_rollout_failures",
        "Calls that failed during a trial, of either generation, by kind.",
    );
    for (pipeline, side, (failures, _, _)) in sides() {
        for (kind, count) in kinds(failures) {
            let labels: [Label; 3] = [("pipeline", pipeline), ("side", &side), ("kind", &kind)];
            family.sample(&labels, count);
        }
    }
    let mut family = out.gauge(
        "tidegate_rollout_batch_cpu_seconds",
        "CPU time of 99 % of the batches of a trial at most, of either generation.",
    );
    for (pipeline, side, (_, cpu, _)) in sides() {
        family.sample(&[("pipeline", pipeline), ("side", &side)], cpu);
    }
    let mut family = out.gauge(
        "tidegate_rollout_memory_peak_bytes",
        "The most linear memory of a call, of either generation.",
    );
    for (pipeline, side, (_, _, memory)) in sides() {
        family.sample(&[("pipeline", pipeline), ("side", &side)], memory);
    }
    let mut family = out.gauge(
        "tidegate_rollout_last_good_info",
        "Always 1; the label names the chain that a rollback puts back. Absent where there is none.",
    );
    for pipeline in pipelines {
        if let Some(generation) = &pipeline.rollout.last_good {
            let labels: [Label; 2] = [("pipeline", &pipeline.name), ("generation", generation)];
            family.sample(&labels, 1);
        }
    }
    let decided = || {
        pipelines
            .iter()
            .filter_map(|pipeline| Some((&pipeline.name, pipeline.rollout.decision.as_ref()?)))
    };
    let mut family = out.gauge(
        "tidegate_rollout_last_decision_info",
        "Always 1; the labels name the chain that was decided on last, and why it was put back: `promoted` where it was not.",
    );
    for (pipeline, decision) in decided() {
        let reason = decision.reason.as_deref().unwrap_or("promoted");
        let labels: [Label; 3] = [
            ("pipeline", pipeline),
            ("generation", &decision.generation),
            ("reason", &reason),
        ];
        family.sample(&labels, 1);
    }
    let mut family = out.gauge(
        "tidegate_rollout_last_decision_time_seconds",
        "When that was, in seconds since the epoch.",
    );
    for (pipeline, decision) in decided() {
        family.sample(&[("pipeline", pipeline)], seconds(decision.time));
    }
}

pub(super) fn decoders(out: &mut Exposition, snapshot: &Snapshot) {
    let decoders = || {
        let sources = snapshot.sources.iter();
        sources.filter_map(|source| Some((&source.name, source.decoder.as_ref()?)))
    };
    let mut family = out.gauge(
        "tidegate_decoder_info",
        "Always 1; the labels say which module decodes the source.",
    );
    for (source, decoder) in decoders() {
        let labels: [Label; 4] = [
            ("source", source),
            ("module", &decoder.module),
            ("version", &decoder.version),
            ("digest", &decoder.digest),
        ];
        family.sample(&labels, 1);
    }
    let mut family = out.gauge(
        "tidegate_decoder_tripped",
        "1 while the decoder is switched off after repeated failure.",
    );
    for (source, decoder) in decoders() {
        let tripped = decoder.state == FilterState::Tripped;
        family.sample(&[("source", source)], u8::from(tripped));
    }
    let mut counter = |name, help, value: fn(&FilterStatus) -> u64| {
        let mut family = out.counter(name, help);
        for (source, decoder) in decoders() {
            family.sample(&[("source", source)], value(decoder));
        }
    };
    counter(
        "tidegate_decoder_messages_total",
        "Messages that were given to the decoder.",
        |d| d.rows_in,
    );
    counter(
        "tidegate_decoder_readings_total",
        "Readings that it made of them.",
        |d| d.rows_out,
    );
    counter("tidegate_decoder_calls_total", "Calls made.", |d| d.calls);
    counter(
        "tidegate_decoder_skipped_batches_total",
        "Batches that it was not asked about because it was switched off.",
        |d| d.skipped_batches,
    );
    let mut family = out.counter(
        "tidegate_decoder_failures_total",
        "Calls that failed, by kind.",
    );
    for (source, decoder) in decoders() {
        for (kind, count) in kinds(decoder.failures) {
            family.sample(&[("source", source), ("kind", &kind)], count);
        }
    }
    let mut family = out.gauge(
        "tidegate_decoder_call_seconds",
        "Duration of a call of late, by quantile; absent before the first.",
    );
    for (source, decoder) in decoders() {
        for (quantile, value) in [("0.5", decoder.p50_seconds), ("0.99", decoder.p99_seconds)] {
            if let Some(value) = value {
                family.sample(&[("source", source), ("quantile", &quantile)], value);
            }
        }
    }
}

fn kinds(failures: FilterFailures) -> [(&'static str, u64); 4] {
    [
        ("trap", failures.trap),
        ("timeout", failures.timeout),
        ("fault", failures.fault),
        ("invalid", failures.invalid),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn real(count: u64) -> f64 {
    count as f64
}
