//! What psql answers, as samples. Pure.

use serde_json::{Map, Value};

use super::table::{FAILED, QUERIES, Query};
use crate::metrics::Sample;

/// The queries for a major release.
pub fn queries(major: u32) -> impl Iterator<Item = &'static Query> {
    QUERIES.iter().filter(move |query| query.majors.contains(&major))
}

/// The statement that answers with one object, whose key is the query's name and whose value its rows: so each answer is
/// known from the others, and nothing in it can be taken for a separator.
pub fn statement(query: &Query) -> String {
    format!("select json_build_object('{}', coalesce(json_agg(q), '[]')) from ({}) q", query.name, query.sql)
}

/// The samples in what psql wrote: those of every query that was answered, and for each of the others that it was not.
pub fn samples(major: u32, written: &str) -> Vec<Sample> {
    let answers: Map<String, Value> = serde_json::Deserializer::from_str(written)
        .into_iter::<Map<String, Value>>()
        .map_while(Result::ok)
        .flatten()
        .collect();
    let mut all = Vec::new();
    for query in queries(major) {
        match answers.get(query.name).and_then(Value::as_array) {
            Some(rows) => rows.iter().for_each(|row| all.extend(of_row(query, row))),
            None => all.push(FAILED.sample(&[query.name], 1.0)),
        }
    }
    all
}

/// A row's samples; none of what is null.
fn of_row<'r>(query: &'r Query, row: &'r Value) -> impl Iterator<Item = Sample> + 'r {
    let label = |name: &&str| match &row[*name] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    query.columns.iter().filter_map(move |(metric, column)| {
        let value = row[*column].as_f64()?;
        let labels: Vec<String> = metric.labels.iter().map(label).collect();
        Some(metric.sample(&labels.iter().map(String::as_str).collect::<Vec<_>>(), value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_release_has_each_query_once() {
        for major in [14, 15, 16, 17, 18] {
            let names: Vec<&str> = queries(major).map(|query| query.name).collect();
            let different: BTreeSet<&str> = names.iter().copied().collect();
            assert_eq!((names.len(), names[0]), (different.len(), "server"), "{major}");
            assert_eq!(names.len(), 10);
        }
        let of = |major| {
            let all = queries(major).flat_map(|query| query.columns).map(|(metric, _)| metric.name);
            all.collect::<BTreeSet<_>>()
        };
        assert!(of(16).contains("pg_stat_bgwriter_checkpoints_timed_total"));
        assert!(!of(17).contains("pg_stat_bgwriter_checkpoints_timed_total"));
        assert!(of(17).contains("pg_stat_checkpointer_num_timed_total"));
    }

    #[test]
    fn rows_are_samples_and_what_was_not_answered_is_said() {
        let written = "{\"server\" : [{\"is_replica\":0,\"lag\":0,\"started\":1795331490.25,\"max_connections\":100}]}\n\
            {\"activity\" : [{\"datname\":\"a\\tb\\n\",\"usename\":\"app\",\"state\":\"idle\",\"count\":3,\"longest\":0}, \n \
            {\"datname\":\"c\",\"usename\":null,\"state\":\"active\",\"count\":1,\"longest\":1.5}]}\n\
            {\"slots\" : [{\"slot_name\":\"db_1\",\"slot_type\":\"physical\",\"active\":1,\"safe_wal_size\":null,\"wal_status\":\"reserved\",\"one\":1}]}\n\
            {\"archiver\" : []}\n\n";
        let all = samples(16, written);
        let text: Vec<String> = all
            .iter()
            .map(|Sample { of, labels, value }| {
                let labels: Vec<&str> = labels.iter().map(|(_, value)| value.as_str()).collect();
                format!("{} {labels:?} {value}", of.name)
            })
            .collect();
        insta::assert_snapshot!(text.join("\n"), @r#"
        pg_replication_is_replica [] 0
        pg_replication_lag_seconds [] 0
        pg_postmaster_start_time_seconds [] 1795331490.25
        pg_settings_max_connections [] 100
        pg_stat_activity_count ["a\tb\n", "app", "idle"] 3
        pg_stat_activity_max_tx_duration ["a\tb\n", "app", "idle"] 0
        pg_stat_activity_count ["c", "", "active"] 1
        pg_stat_activity_max_tx_duration ["c", "", "active"] 1.5
        dbctl_metrics_failed ["transactions"] 1
        dbctl_metrics_failed ["databases"] 1
        dbctl_metrics_failed ["locks"] 1
        pg_replication_slots_slot_is_active ["db_1", "physical"] 1
        pg_replication_slots_wal_status ["db_1", "physical", "reserved"] 1
        dbctl_metrics_failed ["checkpoints"] 1
        dbctl_metrics_failed ["wal"] 1
        dbctl_metrics_failed ["sizes"] 1
        "#);
    }

    #[test]
    fn each_metric_is_there_once() {
        let all = super::super::metrics();
        let names: BTreeSet<&str> = all.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), all.len());
    }
}
