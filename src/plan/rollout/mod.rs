//! A changed pod template on its way to the pods, one at a time: replicas first, then, after its role has moved, what was the
//! primary. A minor upgrade is the case in which the release changes too, and has a backup taken before.
//!
//! What is to be done is seen from the pods, which carry the hash of the template they were made from, and from the
//! StatefulSet. What cannot be seen is noted beside the data before anything is touched: what it began from, so that it can
//! be put back, and that it has halted. The StatefulSet's template follows that note, so that a pod that goes by itself
//! comes back as what is meant to run at that moment.

mod backup;
mod gate;
mod note;
mod restart;
mod step;
#[cfg(test)]
mod tests;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

pub use backup::job as backup_job;
pub use note::{Halt, Note, ROLLOUT};
pub use restart::plan as restart;
pub use step::Moment;

use super::context::Context;
use super::object::terminating;
use super::text::at;
use super::view::{Member, TEMPLATE};
use super::{Action, Event, compare, conditions, members, pod};
use crate::api::{UpgradeProgress, Verb, requests};
use backup::Backed;
use step::Step;

/// How far it is.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Every pod is as the spec asks.
    Settled,
    /// The spec asks for what takes another way; until then all stays as it is.
    Held(String),
    /// It has not begun: what it waits for.
    Waits(String),
    /// It is under way: what is done.
    Moves(String),
    /// It goes no further until somebody says so.
    Halted(String),
}

/// What this pass does about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    /// What the StatefulSet makes pods from.
    pub template: Value,
    /// What is to be noted.
    pub note: Option<Note>,
    /// How far it is.
    pub state: State,
    /// A pod to replace.
    pub replace: Option<Action>,
    /// What Patroni is asked for.
    pub ask: Option<Action>,
    /// The backup's Job.
    pub job: Option<Action>,
    /// What is told.
    pub events: Vec<Event>,
    /// The request that has it go on in this pass.
    pub resumed: Option<String>,
    /// What the status says of an upgrade.
    pub upgrade: Option<UpgradeProgress>,
}

impl Rollout {
    fn new(template: Value, note: Option<Note>, state: State) -> Self {
        let upgrade = None;
        let (replace, ask, job, events, resumed) = (None, None, None, Vec::new(), None);
        Self { template, note, state, replace, ask, job, events, resumed, upgrade }
    }

    /// There is nothing to look at again soon.
    pub fn is_settled(&self) -> bool {
        matches!(self.state, State::Settled | State::Held(_))
    }

    /// Pods are being replaced: nothing else may take members down or move roles.
    pub fn is_moving(&self) -> bool {
        matches!(self.state, State::Moves(_)) && self.note.as_ref().is_some_and(|note| note.rolling)
    }

    fn with_progress(mut self, step: &str, member: Option<String>) -> Self {
        let message = match &self.state {
            State::Settled | State::Held(_) => return self,
            State::Waits(message) | State::Moves(message) | State::Halted(message) => message.clone(),
        };
        self.upgrade = self.note.as_ref().filter(|note| note.is_upgrade()).map(|note| UpgradeProgress {
            from: note.from.to_string(),
            to: note.to.to_string(),
            step: step.to_owned(),
            pod: member,
            message: Some(message),
            started_at: Some(Time(note.started_at)),
        });
        self
    }
}

/// The hash that a template carries.
pub fn hash_of(template: &Value) -> Option<&str> {
    at(template, "/metadata/annotations")?.get(TEMPLATE)?.as_str()
}

/// What the live StatefulSet makes pods from, as it can be applied again.
fn live_template(cx: &Context<'_>) -> Option<Value> {
    let mut template = at(cx.view.stateful_set?, "/spec/template")?.clone();
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("creationTimestamp");
    }
    Some(template)
}

/// What is to be done now.
pub fn plan(at: &Moment<'_, '_>) -> Rollout {
    let cx = at.cx;
    let release = members::release(cx);
    let wanted = pod::template(cx, release);
    let target = hash_of(&wanted).unwrap_or_default().to_owned();
    let noted = Note::of(cx);
    let live = live_template(cx);
    let rollout = Plan { at, wanted, target, noted, live }.rollout();
    if rollout.state == State::Settled && release != cx.spec().version {
        return Rollout { state: State::Held(held(cx)), ..rollout };
    }
    rollout
}

/// While nothing may be changed: as it stands.
pub fn idle(cx: &Context<'_>) -> Rollout {
    let wanted = pod::template(cx, members::release(cx));
    let target = hash_of(&wanted).unwrap_or_default().to_owned();
    let note = Note::of(cx);
    let state = match note.as_ref().and_then(|note| note.halted.as_ref()) {
        Some(halt) => State::Halted(halt.why.clone()),
        None if step::outdated(cx, &target).is_empty() => State::Settled,
        None => State::Waits("nothing is changed now".to_owned()),
    };
    Rollout::new(live_template(cx).unwrap_or(wanted), note, state)
}

/// While a major upgrade makes pods by itself: they are made from what it asks for.
pub fn aside(cx: &Context<'_>) -> Rollout {
    let state = State::Waits("a major upgrade is under way".to_owned());
    Rollout::new(pod::template(cx, members::release(cx)), Note::of(cx), state)
}

/// Another major release is asked for, which is a procedure of its own: the database goes on with what it has.
fn held(cx: &Context<'_>) -> String {
    let (runs, wanted, name) = (members::release(cx), cx.spec().version, cx.names.0);
    format!(
        "members run {runs}: going to {wanted} changes the data's format, which `dbctl upgrade {name} --to {wanted} --major` is for; \
         until then the database goes on with {runs}, and spec.version {runs} takes the wish back"
    )
}

/// One pass's reasoning.
struct Plan<'p, 't, 'a> {
    at: &'p Moment<'t, 'a>,
    /// What the spec asks pods to be made from, and its hash.
    wanted: Value,
    target: String,
    noted: Option<Note>,
    live: Option<Value>,
}

impl Plan<'_, '_, '_> {
    fn rollout(self) -> Rollout {
        let cx = self.at.cx;
        let noted = self.noted.clone().filter(|note| note.target == self.target);
        let base = noted.as_ref().filter(|note| note.halted.is_some()).and_then(|note| note.base.clone());
        let Some(live) = self.live.clone().filter(|_| cx.view.initialized() && !cx.view.members.is_empty())
        else {
            // Nothing runs that could be disturbed.
            return Rollout::new(base.unwrap_or(self.wanted), noted, State::Settled);
        };
        let arrived = hash_of(&live) == Some(self.target.as_str());
        match noted {
            Some(note) if note.halted.is_some() => self.halted(note, live),
            Some(note) if note.rolling => self.rolling(note, arrived),
            Some(note) => self.prepare(note, live),
            None if arrived && step::outdated(cx, &self.target).is_empty() => {
                Rollout::new(self.wanted, None, State::Settled)
            }
            // What is asked for again before all pods had left it, or what the note of is lost.
            None if arrived => {
                let note = Note { rolling: true, base: None, ..self.fresh(&live) };
                self.begun(note, live)
            }
            None => self.begin(live),
        }
    }

    fn release(&self, template: &Value) -> Option<crate::api::PgVersion> {
        at(template, "/metadata/labels")?.get(super::view::LABEL_VERSION)?.as_str()?.parse().ok()
    }

    /// A note of what begins now.
    fn fresh(&self, live: &Value) -> Note {
        let cx = self.at.cx;
        let to = members::release(cx);
        let outdated = step::outdated(cx, &self.target);
        let other = outdated
            .iter()
            .filter_map(|member| member.version()?.parse().ok())
            .find(|version| *version != to);
        // Of one that is not at its end, the template to go back to is the one before that.
        let before = self.noted.as_ref().filter(|note| note.rolling && note.halted.is_none());
        let base = before.map_or_else(|| Some(live.clone()), |note| note.base.clone());
        Note {
            target: self.target.clone(),
            from: other.or_else(|| self.release(live)).unwrap_or(to),
            to,
            started_at: self.at.now,
            rolling: false,
            backup: None,
            base: base.filter(|base| hash_of(base) != Some(self.target.as_str())),
            halted: None,
            resumed: None,
        }
    }

    /// The spec asks for something new.
    fn begin(self, live: Value) -> Rollout {
        let cx = self.at.cx;
        let mut note = self.fresh(&live);
        let back = note.base.is_none();
        let mends = self.noted.as_ref().is_some_and(|noted| noted.rolling && noted.halted.is_none());
        let unfit = (note.is_upgrade() && !back && !mends).then(|| unfit(cx)).flatten();
        if let Some(waits) = step::in_the_way(self.at).or(unfit) {
            let message = format!("{}: {waits}", asked(&note));
            return Rollout::new(live, self.noted.clone(), State::Waits(message));
        }
        if back || !note.is_upgrade() || backup::is_done(cx, &note) {
            note.rolling = true;
        } else {
            note.backup = Some(backup::request(cx, &note));
        }
        self.begun(note, live)
    }

    /// It is noted first; the next pass acts on the note.
    fn begun(&self, note: Note, live: Value) -> Rollout {
        let message = format!("{} begins", asked(&note));
        let told = Event::normal("RolloutStarted", message.clone());
        let rollout = Rollout::new(live, Some(note), State::Moves(message)).with_progress("Preparing", None);
        Rollout { events: vec![told], ..rollout }
    }

    /// A backup is taken before an upgrade.
    fn prepare(self, mut note: Note, live: Value) -> Rollout {
        let cx = self.at.cx;
        match backup::state(cx, &note, self.at.now) {
            Backed::Done => {
                if let Some(waits) = step::in_the_way(self.at).or_else(|| unfit(cx)) {
                    let message = format!("{}: {waits}", asked(&note));
                    return Rollout::new(live, Some(note), State::Moves(message))
                        .with_progress("Preparing", None);
                }
                note.rolling = true;
                let message = format!("{}: the backup is there", asked(&note));
                Rollout::new(live, Some(note), State::Moves(message)).with_progress("Backup", None)
            }
            Backed::Waits(story, job) => {
                let message = format!("a backup is taken first: {story}");
                let rollout =
                    Rollout::new(live, Some(note), State::Moves(message)).with_progress("Backup", None);
                Rollout { job, ..rollout }
            }
            Backed::Failed(why) => {
                self.halt(note, None, format!("the backup that is taken first failed: {why}"), live)
            }
        }
    }

    /// Pods are replaced. `arrived`: the StatefulSet makes them from the new template already.
    fn rolling(self, note: Note, arrived: bool) -> Rollout {
        if !arrived {
            let message = format!("{}: pods are made from the new template from now on", asked(&note));
            return Rollout::new(self.wanted, Some(note), State::Moves(message))
                .with_progress("Preparing", None);
        }
        let name_of = |member: &str| {
            if self.at.cx.view.lock.holder.as_deref() == Some(member) { "Primary" } else { "Replica" }
        };
        let moves = |message: String| State::Moves(message);
        match step::next(self.at, &note) {
            Step::Done => {
                let told =
                    Event::normal("RolloutDone", format!("{}: every member is as asked for", asked(&note)));
                Rollout { events: vec![told], ..Rollout::new(self.wanted, None, State::Settled) }
            }
            Step::Wait(member, message) => {
                let step = member.as_deref().map_or("Waiting", name_of);
                Rollout::new(self.wanted, Some(note), moves(message)).with_progress(step, member)
            }
            Step::Halt(member, why) => {
                let why = format!("{member} {why}");
                let template = self.wanted.clone();
                self.halt(note, Some(member), why, template)
            }
            Step::Replace(member, message, action) => {
                let told = Event::normal("MemberReplaced", message.clone());
                let step = name_of(&member);
                let rollout =
                    Rollout::new(self.wanted, Some(note), moves(message)).with_progress(step, Some(member));
                Rollout { replace: Some(action), events: vec![told], ..rollout }
            }
            Step::Switchover(member, message, ask) => {
                let told = Event::normal("PrimaryMoves", message.clone());
                let rollout = Rollout::new(self.wanted, Some(note), moves(message))
                    .with_progress("Switchover", Some(member));
                Rollout { ask: Some(ask), events: vec![told], ..rollout }
            }
        }
    }

    /// It halts, which is noted before anything is put back.
    fn halt(&self, mut note: Note, member: Option<String>, why: String, template: Value) -> Rollout {
        note.halted = Some(Halt { member: member.clone(), why });
        let message = self.story(&note);
        let told = Event::warning("RolloutHalted", message.clone());
        let rollout =
            Rollout::new(template, Some(note), State::Halted(message)).with_progress("Halted", member);
        Rollout { events: vec![told], ..rollout }
    }

    /// What is so, and what to do.
    fn story(&self, note: &Note) -> String {
        let Some(halt) = &note.halted else { return asked(note) };
        let name = self.at.cx.names.0;
        let look = match &halt.member {
            Some(member) if note.base.is_some() => format!(
                "{member} gets back what it had, and nothing else is touched: see `dbctl logs {name} --member {member}` and \
                 `dbctl events {name}`"
            ),
            Some(member) => format!("nothing else is touched: see `dbctl logs {name} --member {member}`"),
            None => format!("nothing was touched: see `dbctl backups {name}`"),
        };
        let way = if note.is_upgrade() {
            format!(
                "`dbctl upgrade {name} --resume` tries again, `dbctl upgrade {name} --abort` goes back to {}",
                note.from
            )
        } else {
            format!("`dbctl upgrade {name} --resume` tries again, another spec begins anew")
        };
        format!("halted, since {}; {look}; {way}", halt.why)
    }

    /// The member that did not come back gets what it had; the others stay as they are.
    fn halted(self, mut note: Note, live: Value) -> Rollout {
        if let Some(request) = self.resumes() {
            note.backup = note.backup.map(|_| request.clone());
            (note.halted, note.resumed) = (None, Some(request.clone()));
            let message = format!("{} goes on", asked(&note));
            let told = Event::normal("RolloutResumed", message.clone());
            let rollout =
                Rollout::new(live, Some(note), State::Moves(message)).with_progress("Preparing", None);
            return Rollout { events: vec![told], resumed: Some(request), ..rollout };
        }
        let message = self.story(&note);
        let member = note.halted.as_ref().and_then(|halt| halt.member.clone());
        let back = note.base_hash().is_some_and(|base| hash_of(&live) == Some(base));
        let replace = back.then(|| self.put_back(&note)).flatten();
        let told = replace.as_ref().map(|_| {
            let member = member.as_deref().unwrap_or("the member");
            Event::normal(
                "MemberReplaced",
                format!("{member} gets back what it had before the rollout halted"),
            )
        });
        let template = note.base.clone().unwrap_or(live);
        let rollout =
            Rollout::new(template, Some(note), State::Halted(message)).with_progress("Halted", member);
        Rollout { replace, events: told.into_iter().collect(), ..rollout }
    }

    /// The pod to replace by one of before, now that the StatefulSet makes such: that of the member that did not come back,
    /// or of another one that fails with what is new.
    fn put_back(&self, note: &Note) -> Option<Action> {
        let Moment { cx, assessment, now, .. } = *self.at;
        let halted = note.halted.as_ref().and_then(|halt| halt.member.as_deref());
        let stopping = cx.view.members.iter().any(|member| terminating(member.pod));
        let fails = |member: &&Member<'_>| {
            let unwell = halted == Some(member.name) && gate::lacks(cx, assessment, member).is_some();
            member.template() == Some(note.target.as_str())
                && (unwell || gate::failed(member, note.to, now).is_some())
        };
        let member = cx.view.members.iter().filter(|_| !stopping).find(fails)?;
        let may_lead = cx.view.members.len() == 1;
        let uid = super::object::uid_of(member.pod)?.to_owned();
        Some(Action::ReplacePod { pod: member.name.to_owned(), uid, may_lead })
    }

    /// The id of a request to go on that has not been answered.
    fn resumes(&self) -> Option<String> {
        let cx = self.at.cx;
        let annotations = cx.database.metadata.annotations.as_ref()?;
        let known =
            cx.database.status.as_ref().map(|status| status.operations.as_slice()).unwrap_or_default();
        let (_, request) = requests(annotations)
            .into_iter()
            .filter_map(|(.., parsed)| parsed.ok())
            .find(|(verb, _)| *verb == Verb::Resume)?;
        let id = request.id.to_string();
        let fresh = request.check(Verb::Resume, cx.uid, self.at.now).is_ok()
            && known.iter().all(|operation| operation.id != id);
        fresh.then_some(id)
    }
}

/// What is asked for, in words.
fn asked(note: &Note) -> String {
    if note.is_upgrade() {
        format!("the upgrade from {} to {}", note.from, note.to)
    } else {
        "the change of the members' pods".to_owned()
    }
}

/// What keeps an upgrade from being begun.
fn unfit(cx: &Context<'_>) -> Option<String> {
    if conditions::complete(cx) {
        return None;
    }
    let lacks = conditions::incomplete(cx).unwrap_or_else(|| "no primary is running".to_owned());
    Some(format!("it is begun when every member is well, and {lacks}"))
}

/// A short hash, for what needs a name that is always the same.
fn short(text: &str) -> String {
    compare::hash(&Value::String(text.to_owned()))
}
