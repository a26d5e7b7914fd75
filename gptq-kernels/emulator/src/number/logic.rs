//! Bits: logic of three inputs, permutations of bytes, fields and funnels.

use crate::types::Ty;

/// Any function of three bits, by its table.
pub(crate) fn lop3(a: u64, b: u64, c: u64, table: u64) -> u64 {
    let mut found = 0u32;
    let (a, b, c) = (a as u32, b as u32, c as u32);
    for row in 0..8 {
        if table >> row & 1 == 1 {
            let x = if row & 4 != 0 { a } else { !a };
            let y = if row & 2 != 0 { b } else { !b };
            let z = if row & 1 != 0 { c } else { !c };
            found |= x & y & z;
        }
    }
    u64::from(found)
}

/// Picks four of eight bytes; the selector's high bit spreads the byte's sign instead.
pub(crate) fn prmt(a: u64, b: u64, selector: u64) -> u64 {
    let bytes = a as u32 as u64 | (b << 32);
    (0..4).fold(0, |found, i| {
        let pick = selector >> (4 * i);
        let byte = (bytes >> (8 * (pick & 7))) as u8;
        let byte = if pick & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
        found | u64::from(byte) << (8 * i)
    })
}

/// The named modes of `prmt`, as selectors of the plain one.
pub(crate) fn prmt_mode(name: &str) -> Option<fn(u64, u64, u64) -> u64> {
    fn pick(table: [u64; 4], a: u64, b: u64, c: u64) -> u64 {
        prmt(a, b, table[(c & 3) as usize])
    }
    Some(match name {
        "f4e" => |a, b, c| pick([0x3210, 0x4321, 0x5432, 0x6543], a, b, c),
        "b4e" => |a, b, c| pick([0x5670, 0x6701, 0x7012, 0x0123], a, b, c),
        "rc8" => |a, b, c| pick([0x0000, 0x1111, 0x2222, 0x3333], a, b, c),
        "ecl" => |a, b, c| pick([0x3210, 0x3211, 0x3222, 0x3333], a, b, c),
        "ecr" => |a, b, c| pick([0x0000, 0x1110, 0x2210, 0x3210], a, b, c),
        "rc16" => |a, b, c| pick([0x1010, 0x3232, 0x1010, 0x3232], a, b, c),
        _ => return None,
    })
}

/// A field of bits, its sign extended for signed types.
pub(crate) fn extract(ty: Ty) -> fn(u64, u64, u64) -> u64 {
    fn field(value: u64, width: u32, signed: bool, start: u64, length: u64) -> u64 {
        let (start, length) = ((start & 0xff) as u32, (length & 0xff) as u32);
        let sign_at = (start + length).wrapping_sub(1).min(width - 1);
        let negative = signed && length > 0 && value >> sign_at & 1 == 1;
        let fill = if negative { u64::MAX } else { 0 };
        (0..width).fold(0, |found, i| {
            let inside = i < length && start + i < width;
            let bit = if inside { value >> (start + i) & 1 } else { fill & 1 };
            found | bit << i
        })
    }
    match ty {
        Ty::S32 => |a, b, c| field(a, 32, true, b, c),
        Ty::U64 => |a, b, c| field(a, 64, false, b, c),
        Ty::S64 => |a, b, c| field(a, 64, true, b, c),
        _ => |a, b, c| field(a, 32, false, b, c),
    }
}

/// Puts a field of `a` into `b`.
pub(crate) fn insert(wide: bool) -> fn(u64, u64, u64, u64) -> u64 {
    fn place(width: u32, a: u64, b: u64, start: u64, length: u64) -> u64 {
        let (start, length) = ((start & 0xff) as u32, (length & 0xff) as u32);
        if start >= width || length == 0 {
            return b;
        }
        let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
        let field = ones << start;
        (b & !field) | (a << start & field)
    }
    if wide {
        |a, b, c, d| place(64, a, b, c, d)
    } else {
        |a, b, c, d| place(32, a, b, c, d) as u32 as u64
    }
}

/// Shifts two words as one.
pub(crate) fn funnel(left: bool, wrap: bool) -> fn(u64, u64, u64) -> u64 {
    fn joined(a: u64, b: u64) -> u64 {
        a as u32 as u64 | b << 32
    }
    match (left, wrap) {
        (true, true) => |a, b, c| joined(a, b) << (c & 31) >> 32,
        (true, false) => |a, b, c| joined(a, b) << (c as u32).min(32) >> 32,
        (false, true) => |a, b, c| joined(a, b) >> (c & 31) & 0xffff_ffff,
        (false, false) => |a, b, c| joined(a, b) >> (c as u32).min(32) & 0xffff_ffff,
    }
}
