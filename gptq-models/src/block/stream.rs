//! [`Stream`]: texts on their way through the blocks.

use std::ops::Deref;

use gptq_core::Backend;

use super::experts::Routed;
use crate::{Error, graph::Reg, parking::Parked};

/// A place of a stream: a register, or the residual.
#[derive(Clone, Copy)]
pub(crate) struct Place(usize);

impl Place {
    pub(crate) fn all() -> impl Iterator<Item = Place> {
        (0..=Reg::COUNT).map(Place)
    }

    /// The same number for the same place.
    pub(crate) fn index(self) -> usize {
        self.0
    }

    /// Whether nothing but products reads what is there.
    pub(crate) fn is_only_multiplied(self) -> bool {
        self.0 == Reg::Attention as usize || self.0 == Reg::Mlp as usize
    }
}

/// Texts on their way through the blocks.
pub(crate) struct Stream<T> {
    /// tokens × hidden.
    pub(crate) residual: T,
    /// What is kept elsewhere, by place.
    away: [Option<Parked>; Reg::COUNT + 1],
    /// Bytes of what waits here.
    pub(crate) stays: u64,
    /// What stages left for later ones.
    held: [Option<T>; Reg::COUNT],
    /// What experts hold.
    pub(crate) routed: Option<Routed<T>>,
}

impl<T> Stream<T> {
    pub(crate) fn new(residual: T) -> Self {
        Self {
            residual,
            away: Default::default(),
            stays: 0,
            held: Default::default(),
            routed: None,
        }
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

    /// What is at a place, unless it is kept elsewhere.
    pub(crate) fn here(&self, place: Place) -> Option<&T> {
        if self.away[place.0].is_some() { None } else { self.shown(place) }
    }

    /// What is at a place, also if it is kept elsewhere as well.
    pub(crate) fn shown(&self, place: Place) -> Option<&T> {
        match place.0 {
            Reg::COUNT => Some(&self.residual),
            reg => self.held[reg].as_ref(),
        }
    }

    /// Where else it is.
    pub(crate) fn away(&self, place: Place) -> Option<&Parked> {
        self.away[place.0].as_ref()
    }

    pub(crate) fn send_away<B: Backend<Tensor = T>>(
        &mut self,
        backend: &B,
        place: Place,
        parked: Parked,
    ) -> Result<(), Error> {
        match place.0 {
            Reg::COUNT => self.residual = backend.zeros(0, 0)?,
            reg => self.held[reg] = None,
        }
        self.away[place.0] = Some(parked);
        Ok(())
    }

    /// Returns where it was.
    pub(crate) fn bring_back(&mut self, place: Place, x: T) -> Option<Parked> {
        self.show(place, x);
        self.away[place.0].take()
    }

    /// Puts back what is also kept elsewhere.
    pub(crate) fn show(&mut self, place: Place, x: T) {
        match place.0 {
            Reg::COUNT => self.residual = x,
            reg => self.held[reg] = Some(x),
        }
    }

    /// Forgets what is also kept elsewhere.
    pub(crate) fn forget<B: Backend<Tensor = T>>(&mut self, backend: &B) -> Result<(), Error> {
        for place in Place::all().filter(|place| self.away[place.0].is_some()) {
            match place.0 {
                Reg::COUNT => self.residual = backend.zeros(0, 0)?,
                reg => self.held[reg] = None,
            }
        }
        Ok(())
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
