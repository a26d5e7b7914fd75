//! A shared library that is only a name for another.
//!
//! A host program asks for cuBLAS by a file name of its own. The system finds a library that is
//! loaded already by the name it carries, and looks up symbols in what it depends on: so an empty
//! library called `libcublas.so` that needs `libcuda.so` leads to the emulator.

const HEADER: usize = 64;
const SEGMENT: usize = 56;
const SEGMENTS: usize = 3;
const ENTRIES: usize = 8;

/// The machine's number in the header.
const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

/// The bytes of an empty library called `name` that needs the library called `needs`.
///
/// Written to a file and opened, it answers for `name` in the rest of the process. The format is
/// that of 64-bit Linux.
pub fn alias_library(name: &str, needs: &str) -> Vec<u8> {
    let dynamic = HEADER + SEGMENT * SEGMENTS;
    let symbols = dynamic + 16 * ENTRIES;
    // One symbol, the empty one, and a table that finds nothing else.
    let hash = symbols + 24;
    let strings = hash + 16;
    let text = format!("\0{name}\0{needs}\0");
    let end = strings + text.len();

    let mut file = Vec::with_capacity(end);
    file.extend(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [3u16, MACHINE] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    for word in [0u64, HEADER as u64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for half in [HEADER as u16, SEGMENT as u16, SEGMENTS as u16, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // Everything is loaded as it lies in the file; the loader writes to the dynamic section.
    segment(&mut file, 1, 0, end, 0x1000);
    segment(&mut file, 2, dynamic, 16 * ENTRIES, 8);
    // Says that the stack need not be executable.
    segment(&mut file, 0x6474_e551, 0, 0, 16);
    let entries: [(u64, usize); ENTRIES] = [
        (14, 1),             // its own name
        (1, 2 + name.len()), // what it needs
        (4, hash),
        (5, strings),
        (6, symbols),
        (10, text.len()),
        (11, 24),
        (0, 0),
    ];
    for (tag, value) in entries {
        file.extend(tag.to_le_bytes());
        file.extend((value as u64).to_le_bytes());
    }
    file.extend([0; 24]);
    for word in [1u32, 1, 0, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(text.as_bytes());
    file
}

/// A readable and writable segment at the place it has in the file.
fn segment(file: &mut Vec<u8>, kind: u32, at: usize, bytes: usize, align: u64) {
    file.extend(kind.to_le_bytes());
    file.extend(6u32.to_le_bytes());
    for word in [at, at, at, bytes, bytes] {
        file.extend((word as u64).to_le_bytes());
    }
    file.extend(align.to_le_bytes());
}
