//! [`BlockBuilder`]: stages by their parts.

use gptq_core::{Gate, Pointwise};

use super::build::{Build, Norms};
use crate::graph::{
    Add, Attention, Axes, Block, Experts, FusedExpert, LinearPlace, NormSpec, Outputs, Qkv, Reads,
    Reg, Router, Small, Stage, Stored, Then,
};

/// One block, while it is built.
pub(super) struct BlockBuilder<'a> {
    model: &'a Build<'a>,
    name: String,
    /// Channels that attention leaves.
    attended: usize,
    stages: Vec<Stage>,
}

/// Where experts are, and how large they are.
pub(super) struct ExpertNames<'a> {
    /// Below the block, up to the expert's number.
    pub(super) prefix: &'a str,
    /// Gate, up and down of one expert.
    pub(super) parts: [&'a str; 3],
    pub(super) count: usize,
    /// Channels inside an expert.
    pub(super) inner: usize,
    pub(super) bias: bool,
    /// Below the block: the tensors of all experts that a file may have instead, gate with up, and
    /// down.
    pub(super) tensors: [String; 2],
    /// How these would lie.
    pub(super) axes: Axes,
    /// How gate and up share the first of them.
    pub(super) shares: [Outputs; 2],
}

impl<'a> ExpertNames<'a> {
    /// Under the names of most families, without biases.
    pub(super) fn new(prefix: &'a str, count: usize, inner: usize) -> Self {
        Self {
            prefix,
            parts: ["gate_proj", "up_proj", "down_proj"],
            count,
            inner,
            bias: false,
            tensors: ["gate_up_proj", "down_proj"].map(|name| format!("{prefix}.{name}")),
            axes: Axes::OutIn,
            shares: [Outputs::FirstHalf, Outputs::SecondHalf],
        }
    }
}

impl<'a> BlockBuilder<'a> {
    pub(super) fn new(model: &'a Build<'a>, name: String) -> Self {
        Self { model, name, attended: 0, stages: Vec::with_capacity(4) }
    }

    pub(super) fn finish(self) -> Block {
        Block { name: self.name, stages: self.stages }
    }

    /// Full name of something below the block.
    pub(super) fn full(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    /// Whether the file has tensors below the block whose names start so.
    pub(super) fn has(&self, name: &str) -> bool {
        self.model.has(&self.full(name))
    }

    /// A norm over the whole width.
    pub(super) fn norm(&self, norms: Norms, name: &str) -> NormSpec {
        norms.over(&self.full(name), self.model.hidden())
    }

    /// Reading a norm of the residual.
    pub(super) fn normed(&self, norms: Norms, name: &str) -> Reads {
        Reads::Norm(self.norm(norms, name))
    }

    /// An attention whose norms and sinks are named from the block on.
    pub(super) fn named(&self, mut attention: Attention) -> Attention {
        let Attention { q_norm, k_norm, sinks, .. } = &mut attention;
        let norms = [q_norm, k_norm].into_iter().flatten();
        let parts = norms.flat_map(|norm| norm.weight.iter_mut().chain(&mut norm.bias));
        for name in parts.chain(sinks).flat_map(|small| &mut small.names) {
            *name = self.full(name);
        }
        attention
    }

    pub(super) fn linear(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
        bias: bool,
    ) -> LinearPlace {
        LinearPlace {
            name: self.full(name),
            out_features,
            in_features,
            bias,
            stored: Stored::Plain,
        }
    }

    pub(super) fn stage(&mut self, reads: Reads, linears: Vec<LinearPlace>, then: Then) {
        self.stages.push(Stage { reads, linears, experts: None, then: vec![then] });
    }

    /// Linears that read the same as those of the stage before.
    pub(super) fn beside(&mut self, linears: Vec<LinearPlace>, then: Then) {
        if let Some(stage) = self.stages.last_mut() {
            stage.linears.extend(linears);
            stage.then.push(then);
        }
    }

    /// The first linear of an MLP without gate, beside those of the stage before.
    pub(super) fn beside_up(&mut self, name: &str, inner: usize, bias: bool, f: Pointwise) {
        let up = self.linear(name, inner, self.model.hidden(), bias);
        self.beside(vec![up], Then::Apply(f));
    }

    /// Gate and up of an MLP, beside the linears of the stage before.
    pub(super) fn beside_gate_up(&mut self, prefix: &str, inner: usize, bias: bool, gate: Gate) {
        self.beside(self.gate_up(prefix, inner, bias), Then::Gated(gate));
    }

    /// q, k and v by `{prefix}.{q,k,v}_proj`.
    pub(super) fn attend(&mut self, reads: Reads, prefix: &str, bias: bool, attention: Attention) {
        let hidden = self.model.hidden();
        let (q, k) =
            (attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim);
        let v = attention.kv_heads * attention.value_dim;
        let linears = [("q_proj", q), ("k_proj", k), ("v_proj", v)]
            .map(|(name, width)| self.linear(&format!("{prefix}.{name}"), width, hidden, bias));
        self.attended = attention.heads * attention.value_dim;
        self.stage(reads, linears.into(), Then::Attend(Box::new(attention)));
    }

    /// q, k and v by one linear.
    pub(super) fn attend_fused(
        &mut self,
        reads: Reads,
        name: &str,
        bias: bool,
        qkv: Qkv,
        attention: Attention,
    ) {
        let Attention { heads, kv_heads, head_dim, value_dim, .. } = attention;
        let width = (heads + kv_heads) * head_dim + kv_heads * value_dim;
        let linear = self.linear(name, width, self.model.hidden(), bias);
        self.attended = heads * value_dim;
        let attention = Attention { qkv, ..attention };
        self.stage(reads, vec![linear], Then::Attend(Box::new(attention)));
    }

    /// Keys, values and queries from held latents by one linear.
    pub(super) fn attend_latent(&mut self, linear: LinearPlace, attention: Attention) {
        self.attended = attention.heads * attention.value_dim;
        self.stage(Reads::Held(Reg::Latent), vec![linear], Then::Attend(Box::new(attention)));
    }

    /// What attention left, back to the residual.
    pub(super) fn output(&mut self, name: &str, bias: bool, add: Add) {
        let linear = self.linear(name, self.model.hidden(), self.attended, bias);
        self.stage(Reads::Held(Reg::Attention), vec![linear], Then::Add(Box::new(add)));
    }

    /// Gate and up of an MLP.
    pub(super) fn gate_up(&self, prefix: &str, inner: usize, bias: bool) -> Vec<LinearPlace> {
        let linear =
            |name| self.linear(&format!("{prefix}.{name}"), inner, self.model.hidden(), bias);
        ["gate_proj", "up_proj"].map(linear).into()
    }

    /// An MLP of gate and up, `{prefix}.{gate,up,down}_proj`.
    pub(super) fn gated_mlp(
        &mut self,
        reads: Reads,
        prefix: &str,
        inner: usize,
        bias: bool,
        gate: Gate,
        add: Add,
    ) {
        let linears = self.gate_up(prefix, inner, bias);
        self.stage(reads, linears, Then::Gated(gate));
        self.down(&format!("{prefix}.down_proj"), inner, bias, add);
    }

    /// An MLP of gate and up in one linear, `{prefix}.{gate_up,down}_proj`.
    pub(super) fn fused_gated_mlp(
        &mut self,
        reads: Reads,
        prefix: &str,
        inner: usize,
        gate: Gate,
        add: Add,
    ) {
        let name = format!("{prefix}.gate_up_proj");
        let both = self.linear(&name, 2 * inner, self.model.hidden(), false);
        self.stage(reads, vec![both], Then::GatedHalves(gate));
        self.down(&format!("{prefix}.down_proj"), inner, false, add);
    }

    /// An MLP of two linears.
    pub(super) fn mlp(
        &mut self,
        reads: Reads,
        names: [&str; 2],
        inner: usize,
        bias: bool,
        f: Pointwise,
        add: Add,
    ) {
        let up = self.linear(names[0], inner, self.model.hidden(), bias);
        self.stage(reads, vec![up], Then::Apply(f));
        self.down(names[1], inner, bias, add);
    }

    /// What the MLP holds, back to the residual.
    pub(super) fn down(&mut self, name: &str, inner: usize, bias: bool, add: Add) {
        let linear = self.linear(name, self.model.hidden(), inner, bias);
        self.stage(Reads::Held(Reg::Mlp), vec![linear], Then::Add(Box::new(add)));
    }

    /// A mixture of experts, with a shared MLP beside them if `shared` names one and its width.
    pub(super) fn experts(
        &mut self,
        reads: Reads,
        names: &ExpertNames<'_>,
        router: Router,
        shared: Option<(&str, usize)>,
        add: Add,
    ) {
        let gate = router.gate;
        let up = Experts {
            linears: (0..names.count).map(|e| self.expert(names, e, &[0, 1])).collect(),
            router: Some(router),
        };
        let down = Experts {
            linears: (0..names.count).map(|e| self.expert(names, e, &[2])).collect(),
            router: None,
        };
        let hidden = self.model.hidden();
        let (shared_up, shared_down) = match shared {
            Some((prefix, inner)) => {
                let name = format!("{prefix}.down_proj");
                (self.gate_up(prefix, inner, false), vec![self.linear(&name, hidden, inner, false)])
            }
            None => (Vec::new(), Vec::new()),
        };
        let then = if shared.is_some() { vec![Then::Gated(gate)] } else { Vec::new() };
        self.stages.push(Stage { reads, linears: shared_up, experts: Some(up), then });
        self.stages.push(Stage {
            reads: Reads::Held(Reg::Mlp),
            linears: shared_down,
            experts: Some(down),
            then: vec![Then::Add(Box::new(add))],
        });
    }

    /// Gate (0), up (1) or down (2) of one expert.
    fn expert(&self, names: &ExpertNames<'_>, expert: usize, parts: &[usize]) -> Vec<LinearPlace> {
        let (hidden, prefix) = (self.model.hidden(), self.full(names.prefix));
        let linear = |&part: &usize| {
            let (tensor, share) = match names.shares.get(part) {
                Some(&share) => (&names.tensors[0], share),
                None => (&names.tensors[1], Outputs::All),
            };
            let tensor = self.full(tensor);
            let (out_features, in_features) =
                if part < 2 { (names.inner, hidden) } else { (hidden, names.inner) };
            LinearPlace {
                name: format!("{prefix}.{expert}.{}", names.parts[part]),
                out_features,
                in_features,
                bias: names.bias,
                stored: Stored::Fused(FusedExpert {
                    bias: names.bias.then(|| format!("{tensor}_bias")),
                    tensor,
                    expert,
                    experts: names.count,
                    axes: names.axes,
                    outputs: share,
                }),
            }
        };
        parts.iter().map(linear).collect()
    }

    /// A router's weight, experts × hidden, with what else stands beside it left out.
    pub(super) fn router(&self, name: &str, experts: usize, top: usize, gate: Gate) -> Router {
        use crate::graph::{Scoring, Weigh};
        Router {
            weight: Small::matrix(
                self.full(&format!("{name}.weight")),
                experts,
                self.model.hidden(),
            ),
            bias: None,
            correction: None,
            top,
            scoring: Scoring::Softmax,
            groups: None,
            normalize: true,
            scale: 1.0,
            weigh: Weigh::Output,
            gate,
            shared_gate: None,
        }
    }
}
