//! Which linears engines join into one matrix, and how they cut it for several devices.

use super::facts::Split;
use crate::{
    Architecture,
    graph::{LinearPlace, Qkv, Stage, Stored, Then},
};

/// Linears that engines may join.
pub(super) struct Group {
    pub(super) split: Split,
    pub(super) expert: bool,
    pub(super) head: bool,
    pub(super) one_tensor: bool,
    /// The joined name, if several are joined.
    pub(super) looked_up: Option<String>,
    pub(super) roles: Vec<Role>,
}

/// A linear in its group.
pub(super) struct Role {
    pub(super) place: LinearPlace,
    pub(super) pieces: usize,
    /// The expert; linears of one expert read the same rows.
    pub(super) of: usize,
}

/// A linear by itself.
pub(super) fn alone(place: LinearPlace) -> Group {
    group(Split::Whole, None, vec![role(place, 0)])
}

fn role(place: LinearPlace, of: usize) -> Role {
    Role { place, pieces: usize::MAX, of }
}

fn group(split: Split, looked_up: Option<String>, roles: Vec<Role>) -> Group {
    Group { split, expert: false, head: false, one_tensor: false, looked_up, roles }
}

/// Heads of queries, and of keys and values, of the first attention.
pub(super) fn heads(arch: &Architecture) -> Option<(usize, usize)> {
    let mut stages = arch.graph.blocks.iter().flat_map(|block| &block.stages);
    stages.find_map(Stage::attention).map(|a| (a.heads, a.kv_heads))
}

/// Every linear of the blocks, and the head if it is packed.
pub(super) fn groups(arch: &Architecture, head: Option<&LinearPlace>) -> Vec<Group> {
    let mut out = Vec::new();
    for stage in arch.graph.blocks.iter().flat_map(|block| &block.stages) {
        of_stage(stage, &mut out);
    }
    out.extend(head.map(|place| Group {
        head: true,
        ..group(Split::Outputs, None, vec![role(place.clone(), 0)])
    }));
    out
}

/// Linears follow each other in the order that `then` takes their outputs.
fn of_stage(stage: &Stage, out: &mut Vec<Group>) {
    let mut linears = stage.linears.iter().cloned();
    for then in &stage.then {
        match then {
            Then::Attend(attention) => {
                let separate = matches!(attention.qkv, Qkv::Separate);
                let mut roles: Vec<Role> = linears
                    .by_ref()
                    .take(if separate { 3 } else { 1 })
                    .map(|place| role(place, 0))
                    .collect();
                // Queries come first; there may be more devices than heads of keys.
                roles.iter_mut().skip(1).for_each(|role| role.pieces = attention.kv_heads);
                out.push(group(Split::Outputs, joined(&roles, "qkv_proj"), roles));
            }
            Then::Latent(latent) => {
                let queries = latent.q_norm.is_none();
                for (i, place) in linears.by_ref().enumerate() {
                    let split = if i == 0 && queries { Split::Outputs } else { Split::Whole };
                    out.push(group(split, None, vec![role(place, 0)]));
                }
            }
            Then::Gated(_) => {
                let roles: Vec<Role> =
                    linears.by_ref().take(2).map(|place| role(place, 0)).collect();
                out.push(group(Split::Outputs, joined(&roles, "gate_up_proj"), roles));
            }
            Then::GatedHalves(_) | Then::Apply(_) | Then::Hold(_) => {
                let roles = linears.by_ref().take(1).map(|place| role(place, 0));
                out.extend(roles.map(|role| group(Split::Outputs, None, vec![role])));
            }
            Then::Add(_) => {
                let roles = linears.by_ref().take(1).map(|place| role(place, 0));
                out.extend(roles.map(|role| group(Split::Inputs, None, vec![role])));
            }
        }
    }
    let Some(experts) = &stage.experts else { return };
    let roles = experts.linears.iter().enumerate();
    let roles: Vec<Role> =
        roles.flat_map(|(e, linears)| linears.iter().map(move |l| role(l.clone(), e))).collect();
    let split = if experts.router.is_some() { Split::Outputs } else { Split::Inputs };
    out.push(Group {
        expert: true,
        one_tensor: roles.iter().any(|role| matches!(role.place.stored, Stored::Fused(_))),
        ..group(split, before_number(&roles), roles)
    });
}

/// `model.layers.0.self_attn.qkv_proj`, for three linears beside each other.
fn joined(roles: &[Role], name: &str) -> Option<String> {
    let parents: Vec<&str> =
        roles.iter().filter_map(|role| Some(role.place.name.rsplit_once('.')?.0)).collect();
    let first = parents.first()?;
    let siblings = roles.len() > 1 && parents.iter().all(|parent| parent == first);
    siblings.then(|| format!("{first}.{name}"))
}

/// `model.layers.0.mlp.experts`, for its experts.
fn before_number(roles: &[Role]) -> Option<String> {
    let name = &roles.first()?.place.name;
    let parts: Vec<&str> = name.split('.').collect();
    let number = parts.iter().rposition(|part| part.parse::<usize>().is_ok())?;
    Some(parts.get(..number)?.join("."))
}

/// A name without its numbers and what stands before the first of them: `mlp.experts.up_proj`. The
/// whole name if there are none.
pub(crate) fn short(name: &str) -> String {
    let number = |part: &&str| part.parse::<usize>().is_ok();
    let parts: Vec<&str> = name.split('.').collect();
    let first = parts.iter().position(number).map_or(0, |at| at + 1);
    let rest = parts.iter().skip(first).copied().filter(|part| !number(part));
    let rest = rest.collect::<Vec<_>>().join(".");
    if rest.is_empty() { name.to_owned() } else { rest }
}
