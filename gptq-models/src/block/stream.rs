//! [`Stream`]: one sequence on its way through the blocks.

use std::ops::Deref;

use gptq_core::Backend;

use super::experts::Routed;
use crate::{Error, graph::Reg};

/// One sequence on its way through the blocks.
pub(crate) struct Stream<T> {
    /// tokens × hidden.
    pub(crate) residual: T,
    /// What stages left for later ones.
    held: [Option<T>; Reg::COUNT],
    /// What experts hold.
    pub(crate) routed: Option<Routed<T>>,
}

impl<T> Stream<T> {
    pub(crate) fn new(residual: T) -> Self {
        Self { residual, held: Default::default(), routed: None }
    }

    pub(crate) fn get(&self, reg: Reg) -> Option<&T> {
        self.held[reg as usize].as_ref()
    }

    pub(crate) fn take(&mut self, reg: Reg) -> Option<T> {
        self.held[reg as usize].take()
    }

    pub(crate) fn hold(&mut self, reg: Reg, x: T) {
        self.held[reg as usize] = Some(x);
    }

    /// A copy that can go another way.
    pub(crate) fn copy<B: Backend<Tensor = T>>(&self, backend: &B) -> Result<Self, Error> {
        let mut out = Self::new(copy(backend, &self.residual)?);
        for (mine, theirs) in self.held.iter().zip(&mut out.held) {
            *theirs = mine.as_ref().map(|held| copy(backend, held)).transpose()?;
        }
        out.routed = self.routed.as_ref().map(|routed| routed.copy(backend)).transpose()?;
        Ok(out)
    }
}

/// A copy of a matrix, where it lives.
pub(crate) fn copy<B: Backend>(backend: &B, a: &B::Tensor) -> Result<B::Tensor, Error> {
    let rows: Vec<u32> = (0..backend.dim(a).0 as u32).collect();
    Ok(backend.gather(a, &rows)?)
}

/// A stage's input: made for it, or held from before.
pub(crate) enum Input<'a, T> {
    Made(T),
    Held(&'a T),
}

impl<T> Deref for Input<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Input::Made(x) => x,
            Input::Held(x) => x,
        }
    }
}
