//! What an API server's refusal, or its silence, means to a user.

use kube::Error;
use kube::core::Status;

use super::error::{CliError, Outcome};
use super::session::{Place, Session};

/// Turns an error of a request into one that says what to do. `doing` fits after "failed to".
pub fn explain(session: &Session, doing: &str, error: &Error) -> CliError {
    match error {
        Error::Api(status) => refusal(&session.place, doing, status),
        // Nobody was asked.
        Error::BuildRequest(error) => CliError::failed(format!("{doing}: {}", root_cause(error))),
        other => unreachable_server(&session.place, doing, other),
    }
}

/// Whether the answer says that the server does not know the kind at all, rather than that there is no such object.
fn is_unknown_kind(status: &Status) -> bool {
    status.code == 404 && status.details.as_ref().is_none_or(|details| details.name.is_empty())
}

fn refusal(place: &Place, doing: &str, status: &Status) -> CliError {
    let message = status.message.trim();
    match status.code {
        _ if is_unknown_kind(status) => {
            CliError::failed(format!("{doing}: the cluster does not know the kind Database ({message})"))
                .hint("install dbctl in the cluster, once: dbctl install --wait")
        }
        404 => CliError::not_found(format!("failed to {doing}: {message}")),
        401 => {
            CliError::failed(format!("{doing}: the API server does not accept your credentials ({message})"))
                .hint("log in again, or name another context with --context")
        }
        403 => CliError::failed(format!("{doing}: you are not allowed to ({message})"))
            .hint("ask for the right, or name another context or namespace with --context and -n"),
        422 => {
            let mut error = CliError::failed(format!("{doing}: the API server refuses the object"));
            error.outcome = Outcome::Usage;
            let causes = status.details.iter().flat_map(|details| &details.causes);
            let details: Vec<_> = causes.map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
            let details = if details.is_empty() { vec![message.to_owned()] } else { details };
            error.details(details)
        }
        429 | 503 | 504 => {
            CliError::failed(format!("{doing}: the API server of {} is too busy ({message})", name(place)))
                .hint("try again in a moment")
        }
        _ => CliError::failed(format!("{doing}: {message}")),
    }
}

fn name(place: &Place) -> String {
    match place {
        Place::Sandbox(_) => "the sandbox".to_owned(),
        Place::Cluster(name) => format!("context {name:?}"),
    }
}

/// The innermost cause says it best: "connection refused" and the like.
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn unreachable_server(place: &Place, doing: &str, error: &Error) -> CliError {
    let cause = root_cause(error);
    match error {
        Error::SerdeError(_) => CliError::failed(format!(
            "{doing}: cannot read what the API server of {} answered: {cause}",
            name(place)
        ))
        .hint("is the Database definition in the cluster of this dbctl's version? `dbctl version` tells"),
        _ => match place {
            Place::Sandbox(_) => CliError::failed(format!("{doing}: the sandbox does not answer: {cause}"))
                .hint("see what it says with `dbctl sandbox logs`, or restart it with `dbctl sandbox down`"),
            Place::Cluster(name) => {
                CliError::failed(format!("{doing}: the cluster of context {name:?} does not answer: {cause}"))
                    .hint("check that it runs, or name another one with --kubeconfig and --context")
                    .hint("to run on this machine without a cluster, add --sandbox")
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::response::StatusDetails;

    fn status(code: u16, reason: &str, name: &str) -> Status {
        let details = StatusDetails { name: name.into(), ..serde_json::from_str("{}").unwrap() };
        let mut status = Status::failure("the server said so", reason).with_code(code);
        status.details = Some(details);
        status
    }

    #[test]
    fn codes_lead_to_outcomes_and_next_steps() {
        let place = Place::Cluster("prod".into());
        for (status, outcome, text) in [
            (status(404, "NotFound", "orders-db"), Outcome::NotFound, "the server said so"),
            (status(404, "NotFound", ""), Outcome::Failed, "dbctl install"),
            (status(401, "Unauthorized", ""), Outcome::Failed, "credentials"),
            (status(403, "Forbidden", "x"), Outcome::Failed, "not allowed"),
            (status(422, "Invalid", "x"), Outcome::Usage, "refuses the object"),
            (status(503, "ServiceUnavailable", ""), Outcome::Failed, "try again"),
        ] {
            let error = refusal(&place, "read it", &status);
            assert_eq!(error.outcome, outcome, "{status:?}");
            assert!(error.render("error:", "hint:").contains(text), "{error:?}");
        }
    }
}
