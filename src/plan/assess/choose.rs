//! Who is to be primary next, or why nobody.

use super::words::{Loss, Unfit};
use super::{Assessment, Primary};
use crate::patroni::TTL_SECONDS;
use crate::plan::Ask;

/// A change of primary that may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// The primary stops in good order, and the other one takes over: nothing is lost.
    Switchover {
        /// The primary.
        from: String,
        /// The member that follows it.
        to: String,
    },
    /// A member is promoted where nobody leads.
    Failover {
        /// The member.
        to: String,
        /// What is lost with it.
        loss: Loss,
    },
}

impl Move {
    /// The member that is to be primary.
    pub fn to(&self) -> &str {
        match self {
            Self::Switchover { to, .. } | Self::Failover { to, .. } => to,
        }
    }
}

/// Why the primary's role is not moved. Shown, it says what is so and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no database yet.
    #[error("the database has not been made yet: there is nothing to move")]
    NotMade,
    /// No member has that name.
    #[error("there is no member {name}; the members are {}", .known.join(", "))]
    NoSuchMember {
        /// What was asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// It is what it should become.
    #[error("{name} is the primary already")]
    AlreadyPrimary {
        /// The member.
        name: String,
    },
    /// There is nobody to move to.
    #[error(
        "{name} is the only member: `dbctl scale` adds one that can take over, `dbctl restart` restarts it in place"
    )]
    OnlyMember {
        /// The member.
        name: String,
    },
    /// The member that was asked for may not be primary.
    #[error("{name} {unfit}; {}", next_step(.unfit, .best.as_deref()))]
    Unfit {
        /// The member.
        name: String,
        /// What it lacks.
        unfit: Unfit,
        /// The member that lacks nothing, if there is one.
        best: Option<String>,
    },
    /// No member may be primary.
    #[error("no member is fit to be primary: {}; `dbctl status` shows how they come along", listed(.members))]
    NoCandidate {
        /// Each, and what it lacks.
        members: Vec<(String, Unfit)>,
    },
    /// Nobody leads, and Patroni promotes nobody but by its own rules.
    #[error(
        "no primary is running{}: Patroni elects a fit member by itself within seconds where no commit is at stake. \
         --force promotes {to} now: {loss}", .problem.as_deref().map(|what| format!(" ({what})")).unwrap_or_default()
    )]
    NeedsForce {
        /// The member that would be promoted.
        to: String,
        /// What is lost with it.
        loss: Loss,
        /// What is wrong with the holder of the lock.
        problem: Option<String>,
    },
    /// The holder of the lock does not serve, but may be alive.
    #[error(
        "{holder} holds the leader lock and {problem}: nothing proves that it is dead, so nobody else may be primary before the \
         lock runs out, {TTL_SECONDS} seconds after it was last renewed. Patroni then elects a fit member by itself; where \
         there is none, --force promotes one"
    )]
    LockAlive {
        /// The holder.
        holder: String,
        /// What it lacks.
        problem: String,
    },
    /// The holder of the lock was asked for, and does not serve.
    #[error("{name} holds the leader lock, but {problem}: choose another member, or see to this one")]
    HolderUnwell {
        /// The holder.
        name: String,
        /// What it lacks.
        problem: String,
    },
    /// Somebody runs as primary without the lock.
    #[error(
        "{name} says that it runs as primary but does not hold the leader lock: to promote another one would make two \
         primaries; it steps down within seconds, or delete pod {name}"
    )]
    StillAlive {
        /// The member.
        name: String,
    },
    /// The role is on its way.
    #[error(
        "Patroni has been asked to move the primary's role to {to} and is at it: look again when it is done"
    )]
    Moving {
        /// Whom to.
        to: String,
    },
    /// Somebody has told Patroni to take its hands off.
    #[error(
        "Patroni is paused by somebody who works on this database: resume it first, or move the role all the same with --force"
    )]
    Paused,
}

/// What to do about a member that may not be primary. Only what is lost can be forced, never what cannot work.
fn next_step(unfit: &Unfit, best: Option<&str>) -> String {
    let own = match unfit {
        Unfit::Silent | Unfit::NotRunning(_) => "`dbctl logs` shows why",
        Unfit::Stopping | Unfit::Leaving => "it is on its way out",
        Unfit::NoData(_) => "it can be primary when it has been filled",
        Unfit::NotStreaming => "it can take over as soon as it streams",
        Unfit::OtherTimeline { .. } => {
            "promoting it would throw away what was written since, and --force does not do that"
        }
        Unfit::NotListed => "Patroni lists it within seconds of its streaming",
        Unfit::Lagging { .. } | Unfit::Replaying { .. } => "ask again when it has caught up",
        Unfit::Behind { .. } => "promote that one",
    };
    match best {
        Some(best) if !matches!(unfit, Unfit::Behind { .. }) => format!("{own}; {best} can take over now"),
        _ => own.to_owned(),
    }
}

fn listed(members: &[(String, Unfit)]) -> String {
    let each: Vec<String> = members.iter().map(|(name, unfit)| format!("{name} {unfit}")).collect();
    each.join(", ")
}

impl Refusal {
    /// What was asked for does not exist; everything else is refused as unsafe.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NoSuchMember { .. })
    }

    /// It may pass by itself within seconds.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::LockAlive { .. } | Self::StillAlive { .. })
    }
}

impl Assessment {
    /// Who is to be primary: `to`, or the fittest. With a healthy primary this is a switchover, `force` or not. Without one
    /// it needs `force`, which accepts that commits are lost; it never makes two primaries, and never promotes a member
    /// whose data is of another timeline or that another member is ahead of.
    ///
    /// # Errors
    /// Why nobody is.
    pub fn choose(&self, to: Option<&str>, force: bool) -> Result<Move, Refusal> {
        if !self.made {
            return Err(Refusal::NotMade);
        }
        if let Some(name) = to.filter(|name| !self.members().contains(name)) {
            let known = self.members().into_iter().map(str::to_owned).collect();
            return Err(Refusal::NoSuchMember { name: name.to_owned(), known });
        }
        match self.healthy_primary() {
            Some(primary) => self.switchover(primary, to, force),
            None => self.failover(to, force),
        }
    }

    /// What Patroni is asked for. `named`: that member and no other, since somebody named it.
    pub fn ask(&self, chosen: &Move, named: bool) -> Ask {
        match chosen {
            Move::Switchover { from, to } => Ask::Switchover {
                leader: from.clone(),
                candidate: to.clone(),
                insist: named || self.may_go_wrong(to),
            },
            Move::Failover { to, .. } => Ask::Failover { candidate: to.clone() },
        }
    }

    /// Whether Patroni, asked for nobody by name, could take a member that is fit by its own rules only.
    fn may_go_wrong(&self, to: &str) -> bool {
        let cordoned = self.candidate(to).is_some_and(|candidate| candidate.cordoned);
        self.candidates.iter().filter(|other| other.name != to).any(|other| match &other.unfit {
            None => other.cordoned && !cordoned,
            Some(unfit) => matches!(unfit, Unfit::Replaying { .. } | Unfit::Stopping | Unfit::Leaving),
        })
    }

    /// Who may be primary after it, in words: where nobody is named to Patroni, whoever is first of those that have everything.
    pub fn heirs(&self, chosen: &Move, named: bool) -> String {
        let to = chosen.to();
        if !matches!(self.ask(chosen, named), Ask::Switchover { insist: false, .. }) {
            return to.to_owned();
        }
        let others = self.candidates.iter().filter(|other| other.name != to && other.unfit.is_none());
        let mut names: Vec<&str> = others.map(|other| other.name.as_str()).collect();
        match names.pop() {
            None => to.to_owned(),
            Some(last) => {
                let first: String = names.iter().map(|name| format!(", {name}")).collect();
                format!("{to}{first} or {last}, whichever is first")
            }
        }
    }

    fn switchover(&self, primary: &Primary, to: Option<&str>, force: bool) -> Result<Move, Refusal> {
        if to == Some(primary.name.as_str()) {
            return Err(Refusal::AlreadyPrimary { name: primary.name.clone() });
        }
        if self.candidates.is_empty() {
            return Err(Refusal::OnlyMember { name: primary.name.clone() });
        }
        self.unclaimed()?;
        if let Some((_, pending)) = &self.pending {
            let to = pending.clone().unwrap_or_else(|| "another member".to_owned());
            return Err(Refusal::Moving { to });
        }
        if self.paused && !force {
            return Err(Refusal::Paused);
        }
        let to = self.pick(to)?.0.to_owned();
        Ok(Move::Switchover { from: primary.name.clone(), to })
    }

    fn failover(&self, to: Option<&str>, force: bool) -> Result<Move, Refusal> {
        self.unclaimed()?;
        let holder = self.primary.as_ref();
        let problem = holder.and_then(|holder| holder.problem.clone()).unwrap_or_default();
        if let Some(holder) = holder.filter(|holder| self.lock_alive && (!holder.reachable || holder.moving))
        {
            return Err(Refusal::LockAlive { holder: holder.name.clone(), problem });
        }
        if let Some(holder) = holder.filter(|holder| to == Some(holder.name.as_str())) {
            return Err(Refusal::HolderUnwell { name: holder.name.clone(), problem });
        }
        let (to, loss) = self.pick(to)?;
        if !force {
            let problem = holder.map(|holder| format!("{} {problem}", holder.name));
            return Err(Refusal::NeedsForce { to: to.to_owned(), loss: loss.clone(), problem });
        }
        Ok(Move::Failover { to: to.to_owned(), loss: loss.clone() })
    }

    fn unclaimed(&self) -> Result<(), Refusal> {
        match self.claimants.first() {
            Some(name) => Err(Refusal::StillAlive { name: name.clone() }),
            None => Ok(()),
        }
    }

    fn pick(&self, to: Option<&str>) -> Result<(&str, &Loss), Refusal> {
        let best = self.best();
        let Some(wanted) = to else {
            return best.map(|best| (best.name.as_str(), &best.loss)).ok_or_else(|| Refusal::NoCandidate {
                members: self
                    .candidates
                    .iter()
                    .filter_map(|candidate| Some((candidate.name.clone(), candidate.unfit.clone()?)))
                    .collect(),
            });
        };
        let candidate = self.candidate(wanted).ok_or_else(|| Refusal::NoSuchMember {
            name: wanted.to_owned(),
            known: self.members().into_iter().map(str::to_owned).collect(),
        })?;
        match &candidate.unfit {
            None => Ok((&candidate.name, &candidate.loss)),
            Some(unfit) => Err(Refusal::Unfit {
                name: wanted.to_owned(),
                unfit: unfit.clone(),
                best: best.map(|best| best.name.clone()),
            }),
        }
    }
}
