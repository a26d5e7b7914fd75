//! Keys turn and go to their cache, and values to theirs: one launch for what a block asks for in
//! four operations. Each of them looks whether the one before it can do its work too.

use gptq_core::{Error, RopeShape};

use super::{
    CudaBackend, CudaTensor,
    ops::{THREADS, blocks},
    tape::Argument::{At, Data, Whole, Wide},
};

/// Words of the arguments of `rope`: two matrices, then the angles.
const ROPE: usize = 12;

impl CudaBackend {
    pub(super) fn turn(
        &self,
        x: &mut CudaTensor,
        cos: &CudaTensor,
        sin: &CudaTensor,
        shape: RopeShape,
    ) -> Result<(), Error> {
        let half = cos.columns;
        assert!(shape.head_dim > 0 && x.columns.is_multiple_of(shape.head_dim), "rope: heads");
        assert!(shape.offset + 2 * half <= shape.head_dim, "rope: channels of a head");
        assert!(cos.rows >= x.rows && sin.rows >= x.rows && sin.columns == half, "rope: angles");
        x.change();
        let many = x.rows * (x.columns / shape.head_dim) * half;
        let angles = [
            cos.buffer.at,
            sin.buffer.at,
            shape.head_dim as u64,
            shape.offset as u64,
            half as u64,
            shape.interleaved.into(),
        ];
        let own = [x.buffer.at, many as u64, x.columns as u64];
        let mut tape = self.device.tape();
        // Keys turn as the queries before them.
        let before = tape.take_back("rope", |words| {
            words[3] == 0 && words[0] != x.buffer.at && words[6..] == angles
        });
        let matrices = match &before {
            None => [own, [0; 3]].concat(),
            Some(words) => [&words[..3], &own].concat(),
        };
        let all = matrices[1] + matrices[4];
        let arguments: Vec<_> = matrices.into_iter().chain(angles).map(Wide).collect();
        let blocks = blocks("rope", all as usize)?;
        tape.launch(&self.device, "rope", [blocks, 1, 1], THREADS, 0, &arguments)
    }

    pub(super) fn keep(
        &self,
        target: &mut CudaTensor,
        at: usize,
        rows: &CudaTensor,
    ) -> Result<(), Error> {
        assert_eq!(target.columns, rows.columns, "write_rows: columns");
        assert!(at + rows.rows <= target.rows, "write_rows: rows");
        target.change();
        let place = (at as u32).to_le_bytes();
        let (many, to, from) = (rows.len(), target.buffer.at, rows.buffer.at);
        let mut tape = self.device.tape();
        // What was staged for the operation before stays where it is.
        tape.make_room(&self.device, place.len())?;
        let none = [At(0), At(0), At(0), Wide(0), Whole(0), Whole(0)];
        let own = [
            At(to),
            Data(&place),
            At(from),
            Wide(many as u64),
            Whole(rows.columns as u32),
            Whole(target.kept()),
        ];
        // Keys go where they belong while they turn, if all their channels do.
        let turned = tape.take_back("rope", |words| {
            let last = if words[3] == 0 { &words[..3] } else { &words[3..6] };
            let whole = words[8] == 2 * words[10] && words[9] == 0;
            whole && last[0] == from && words[0] != to && words[3] != to
        });
        // Values go where the keys before them went.
        let mut kept = || {
            tape.take_back("rope_and_keep", |words| {
                let changed = [words[0], words[3], words[ROPE]];
                words[ROPE + 3] == 0 && !changed.contains(&to) && !changed.contains(&from)
            })
        };
        let (name, arguments, all) = if let Some(words) = turned {
            let all = (words[1] + words[4]) as usize;
            let keys = [At(to), Data(&place), Whole(target.kept())];
            let turning = words.into_iter().map(Wide);
            ("rope_and_keep", turning.chain(keys).chain(none).collect::<Vec<_>>(), all)
        } else if let Some(words) = kept() {
            let all = (words[1] + words[4]) as usize + many;
            let before = words.into_iter().take(ROPE + 3).map(Wide);
            ("rope_and_keep", before.chain(own).collect(), all)
        } else {
            let before = tape.take_back("write_rows", |words| {
                words[6] == 0 && ![words[0], words[2]].contains(&to) && words[0] != from
            });
            let all = many + before.as_ref().map_or(0, |words| words[3] as usize);
            let arguments = match before {
                None => own.into_iter().chain(none).collect(),
                Some(words) => words.into_iter().take(own.len()).map(Wide).chain(own).collect(),
            };
            ("write_rows", arguments, all)
        };
        let blocks = blocks(name, all)?;
        tape.launch(&self.device, name, [blocks, 1, 1], THREADS, 0, &arguments)
    }
}
