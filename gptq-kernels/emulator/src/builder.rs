//! Collects one kernel's instructions and gives every operand its slot.

use std::collections::HashMap;

use crate::inst::{Address, Collective, Group, Inst, Left, Op, Slot, Space};
use crate::kernel::{Init, Kernel, Parameter, Source, Special};
use crate::operand::Operand;
use crate::scope::{Branch, Scope};
use crate::variable::{Variable, Variables};

pub(crate) struct Builder<'a> {
    variables: &'a Variables,
    target: &'a str,
    name: String,
    parameters: Vec<(String, Parameter)>,
    scopes: Vec<Scope>,
    insts: Vec<Inst>,
    sources: Vec<Source>,
    slots: Vec<Init>,
    known: HashMap<Init, Slot>,
    /// Where shared and local variables of this kernel lie.
    shared: HashMap<String, u64>,
    shared_bytes: u64,
    /// Dynamic shared memory begins at the widest alignment that accesses need, or wider.
    dynamic_align: u64,
    local: HashMap<String, u64>,
    local_bytes: u64,
    guard: Option<(Slot, bool)>,
    pub(crate) tables: HashMap<String, Vec<String>>,
}

fn align(at: u64, to: u64) -> u64 {
    at.next_multiple_of(to.max(1))
}

/// Registers that products of a warpgroup read or write, in order.
fn group_slots(insts: &[Inst]) -> Vec<Slot> {
    let mut slots = Vec::new();
    for inst in insts {
        let Op::Together(together) = &inst.op else { continue };
        let Collective::Group(Group::Multiply(product)) = &together.what else { continue };
        slots.extend(&product.d);
        if let Left::Registers(words) = product.a {
            slots.extend(words);
        }
    }
    slots.sort_unstable();
    slots.dedup();
    slots
}

impl<'a> Builder<'a> {
    pub(crate) fn new(
        name: String,
        parameters: Vec<(String, Parameter)>,
        variables: &'a Variables,
        target: &'a str,
    ) -> Self {
        Self {
            variables,
            target,
            name,
            parameters,
            scopes: vec![Scope::default()],
            insts: Vec::new(),
            sources: Vec::new(),
            slots: Vec::new(),
            known: HashMap::new(),
            shared: HashMap::new(),
            shared_bytes: 0,
            dynamic_align: 16,
            local: HashMap::new(),
            local_bytes: 0,
            guard: None,
            tables: HashMap::new(),
        }
    }

    /// The architecture that the module is for.
    pub(crate) fn target(&self) -> &str {
        self.target
    }

    pub(crate) fn scope(&mut self) -> &mut Scope {
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    pub(crate) fn open(&mut self) {
        self.scopes.push(Scope::default());
    }

    /// Ends a pair of braces: its branches find their labels, here or further out.
    pub(crate) fn close(&mut self) -> Result<(), String> {
        let Some(scope) = self.scopes.pop() else { return Err("brace without partner".into()) };
        for branch in scope.waiting {
            if let Some(&to) = scope.labels.get(&branch.label) {
                match &mut self.insts[branch.inst].op {
                    Op::Branch { to: target } => *target = to,
                    Op::BranchTable { to: targets, .. } => targets[branch.entry] = to,
                    _ => {}
                }
            } else if self.scopes.is_empty() {
                return Err(format!("no label {}", branch.label));
            } else {
                self.scope().waiting.push(branch);
            }
        }
        Ok(())
    }

    pub(crate) fn label(&mut self, name: String) {
        let here = self.insts.len() as u32;
        self.scope().labels.insert(name, here);
    }

    /// Begins a statement: what is emitted from here on belongs to it.
    pub(crate) fn begin(&mut self, line: usize, text: String, guard: Option<(Slot, bool)>) {
        self.sources.push(Source { line, text });
        self.guard = guard;
    }

    pub(crate) fn emit(&mut self, op: Op) {
        let source = self.sources.len() as u32 - 1;
        self.insts.push(Inst { guard: self.guard, op, source });
    }

    pub(crate) fn branch(&mut self, labels: &[String], index: Option<Slot>) {
        let inst = self.insts.len();
        for (entry, label) in labels.iter().enumerate() {
            self.scope().waiting.push(Branch { inst, entry, label: label.clone() });
        }
        self.emit(match index {
            None => Op::Branch { to: 0 },
            Some(index) => Op::BranchTable { to: vec![0; labels.len()].into(), index },
        });
    }

    /// A register that the text does not name.
    pub(crate) fn temporary(&mut self) -> Slot {
        self.slots.push(Init::Register);
        self.slots.len() as u32 - 1
    }

    fn fixed(&mut self, init: Init) -> Slot {
        let slots = &mut self.slots;
        *self.known.entry(init).or_insert_with(|| {
            slots.push(init);
            slots.len() as u32 - 1
        })
    }

    pub(crate) fn constant(&mut self, value: u64) -> Slot {
        self.fixed(Init::Constant(value))
    }

    pub(crate) fn register(&mut self, name: &str) -> Option<Slot> {
        let slots = &mut self.slots;
        self.scopes.iter_mut().rev().find_map(|scope| {
            scope.register(name, || {
                slots.push(Init::Register);
                slots.len() as u32 - 1
            })
        })
    }

    /// Where a result goes.
    pub(crate) fn to(&mut self, operand: &Operand) -> Result<Slot, String> {
        match operand {
            Operand::Name(name) if name == "_" => Ok(self.temporary()),
            Operand::Name(name) => self.register(name).ok_or_else(|| format!("no register {name}")),
            _ => Err("a register was expected".into()),
        }
    }

    /// Where an operand comes from.
    pub(crate) fn from(&mut self, operand: &Operand) -> Result<Slot, String> {
        match operand {
            Operand::Number(value) => Ok(self.constant(*value)),
            Operand::Name(name) => match self.register(name) {
                Some(slot) => Ok(slot),
                None => {
                    let init = self.symbol(name).ok_or_else(|| format!("unknown name {name}"))?;
                    Ok(self.fixed(init))
                }
            },
            _ => Err("a value was expected".into()),
        }
    }

    /// A predicate as an operand, and the value that counts as true.
    pub(crate) fn predicate(&mut self, operand: &Operand) -> Result<(Slot, bool), String> {
        match operand {
            Operand::Not(name) => Ok((self.from(&Operand::Name(name.clone()))?, false)),
            _ => Ok((self.from(operand)?, true)),
        }
    }

    /// The registers of `{a, b}`, or of a single one.
    pub(crate) fn many(&mut self, operand: &Operand, results: bool) -> Result<Vec<Slot>, String> {
        let mut one = |part: &Operand| if results { self.to(part) } else { self.from(part) };
        match operand {
            Operand::Vector(parts) => parts.iter().map(one).collect(),
            single => Ok(vec![one(single)?]),
        }
    }

    pub(crate) fn address(&mut self, operand: &Operand, space: Space) -> Result<Address, String> {
        match operand {
            Operand::Address(base, offset) => {
                Ok(Address { space, base: self.from(base)?, offset: *offset })
            }
            _ => Err("an address was expected".into()),
        }
    }

    fn symbol(&mut self, name: &str) -> Option<Init> {
        if let Some((_, parameter)) = self.parameters.iter().find(|(known, _)| known == name) {
            return Some(Init::Constant(parameter.offset as u64));
        }
        if let Some(&at) = self.shared.get(name).or(self.local.get(name)) {
            return Some(Init::Constant(at));
        }
        match self.variables.find(name) {
            Some(Variable::Address(at)) => return Some(Init::Constant(*at)),
            Some(Variable::Shared { align, bytes }) => {
                return Some(Init::Constant(self.declare_shared(name, *align, *bytes)));
            }
            Some(Variable::DynamicShared { align }) => {
                self.dynamic_align = self.dynamic_align.max(*align);
                return Some(Init::DynamicShared);
            }
            None => {}
        }
        match name {
            "WARP_SZ" => Some(Init::Constant(32)),
            "%smid" | "%gridid" => Some(Init::Constant(0)),
            "%nsmid" => Some(Init::Constant(1)),
            _ => Special::parse(name).map(Init::Special),
        }
    }

    pub(crate) fn declare_shared(&mut self, name: &str, alignment: u64, bytes: u64) -> u64 {
        let at = align(self.shared_bytes, alignment);
        self.shared_bytes = at + bytes;
        self.shared.insert(name.to_owned(), at);
        at
    }

    pub(crate) fn declare_local(&mut self, name: &str, alignment: u64, bytes: u64) {
        let at = align(self.local_bytes, alignment);
        self.local_bytes = at + bytes;
        self.local.insert(name.to_owned(), at);
    }

    pub(crate) fn finish(mut self, max_threads: Option<u32>) -> Result<Kernel, String> {
        // A kernel may end without `ret`.
        self.begin(0, "end of the kernel".into(), None);
        self.emit(Op::Exit);
        self.close()?;
        let block_slots = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(slot, init)| match init {
                Init::Special(Special::Block(axis)) => Some((slot as Slot, *axis)),
                _ => None,
            })
            .collect();
        let group_slots = group_slots(&self.insts);
        Ok(Kernel {
            name: self.name,
            parameters: self.parameters.into_iter().map(|(_, parameter)| parameter).collect(),
            insts: self.insts,
            sources: self.sources,
            slots: self.slots,
            block_slots,
            group_slots,
            static_shared: align(self.shared_bytes, self.dynamic_align) as usize,
            local_bytes: align(self.local_bytes, 16) as usize,
            max_threads,
        })
    }
}
