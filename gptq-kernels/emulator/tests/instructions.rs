//! Instructions one by one, those too that compilers rarely choose.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{Device, Parameters};

/// Runs lines that leave a result in `%out`; `%a` to `%d` are words given.
#[track_caller]
fn eval(body: &str, words: [u32; 4]) -> u64 {
    let ptx = format!(
        ".version 8.4\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 k_0)\n{{\n\
         .reg .b32 %a, %b, %c, %d, %x, %y;\n.reg .b64 %to, %out, %w<4>;\n.reg .b16 %h<4>;\n\
         .reg .pred %p, %q, %s;\n.reg .f32 %f<4>;\n\
         ld.param.u64 %to, [k_0];\nld.global.v4.u32 {{%a, %b, %c, %d}}, [%to+16];\n\
         {body}\nst.global.u64 [%to], %out;\nret;\n}}\n"
    );
    let mut device = Device::new(&ptx);
    let at = device.upload(&[[0; 4], words].concat());
    device.run("k", (1, 1), Parameters::default().with(at));
    device.download::<u64>(at, 1)[0]
}

#[track_caller]
fn word(line: &str, words: [u32; 4]) -> u32 {
    eval(&format!("{line}\ncvt.u64.u32 %out, %x;"), words) as u32
}

#[test]
fn carries() {
    let body = "add.cc.u32 %x, %a, %b; addc.cc.u32 %y, %c, %d; addc.u32 %a, 0, 0;\n\
                add.u32 %y, %y, %a; mov.b64 %out, {%x, %y};";
    assert_eq!(eval(body, [u32::MAX, 2, 7, 8]), 16 << 32 | 1);
    assert_eq!(eval(body, [1, 2, u32::MAX, 0]), 0xffff_ffff_0000_0003);
    let body = "sub.cc.u32 %x, %a, %b; subc.u32 %y, %c, %d; mov.b64 %out, {%x, %y};";
    assert_eq!(eval(body, [1, 2, 9, 3]), (9 << 32 | 1) - (3 << 32 | 2));
    let body = "mad.lo.cc.u32 %x, %a, %b, %c; madc.hi.u32 %y, %a, %b, %d; mov.b64 %out, {%x, %y};";
    let [a, b] = [0xdead_beef_u32, 0xcafe_f00d];
    let expected = u64::from(a) * u64::from(b) + (5 << 32 | 0xffff_fff0);
    assert_eq!(eval(body, [a, b, 0xffff_fff0, 5]), expected);
}

#[test]
fn fields_of_bits() {
    let given = [0xabcd_1234, 8, 12, 0xfff];
    assert_eq!(word("bfe.u32 %x, %a, %b, %c;", given), 0xd12);
    assert_eq!(word("bfe.s32 %x, %a, %b, %c;", given), 0xffff_fd12);
    assert_eq!(word("bfe.s32 %x, %a, 28, 32;", given), 0xffff_fffa);
    assert_eq!(word("bfi.b32 %x, %d, %a, %b, %c;", given), 0xabcf_ff34);
    assert_eq!(word("bfind.u32 %x, %d;", given), 11);
    assert_eq!(word("bfind.s32 %x, -1;", given), u32::MAX);
    assert_eq!(word("brev.b32 %x, %b;", given), 0x1000_0000);
    assert_eq!(word("shf.r.wrap.b32 %x, %a, %d, %b;", given), 0xffab_cd12);
    assert_eq!(word("shf.l.clamp.b32 %x, %a, %d, 40;", given), 0xabcd_1234);
    assert_eq!(word("shl.b32 %x, %a, 32;", given), 0);
    assert_eq!(word("shr.s32 %x, %a, 99;", given), u32::MAX);
}

#[test]
fn bytes_and_tables() {
    let given = [0x3322_1100, 0x7766_5584, 0, 0];
    assert_eq!(word("prmt.b32 %x, %a, %b, 0x7410;", given), 0x7784_1100);
    assert_eq!(word("prmt.b32 %x, %a, %b, 0xc0c0;", given), 0xff00_ff00);
    assert_eq!(word("prmt.b32.f4e %x, %a, %b, 1;", given), 0x8433_2211);
    for table in [0xea, 0x96, 0xca, 0x01, 0xfe] {
        let [a, b, c] = [0xf0f0_ff00_u32, 0xcccc_0f0f, 0xaaaa_3355];
        let expected = (0..32).fold(0, |found, bit| {
            let row = (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | (c >> bit & 1);
            found | (table >> row & 1) << bit
        });
        let line = format!("lop3.b32 %x, %a, %b, %c, {table};");
        assert_eq!(word(&line, [a, b, c, 0]), expected);
    }
    assert_eq!(word("dp4a.s32.s32 %x, %a, %b, 10;", [0x01ff_0203, 0x0402_fe05, 0, 0]), 23);
    assert_eq!(word("dp4a.u32.u32 %x, %a, %b, 10;", [0x01ff_0203, 0x0402_fe05, 0, 0]), 1047);
}

#[test]
fn conversions() {
    let float = |x: f32| [x.to_bits(), 0, 0, 0];
    let line = |how: &str| format!("mov.b32 %f1, %a; cvt.{how} %x, %f1;");
    assert_eq!(word(&line("rni.s32.f32"), float(2.5)), 2);
    assert_eq!(word(&line("rzi.s32.f32"), float(-2.9)) as i32, -2);
    assert_eq!(word(&line("rpi.u32.f32"), float(-7.5)), 0);
    assert_eq!(word(&line("rzi.s32.f32"), float(1e20)) as i32, i32::MAX);
    assert_eq!(word(&line("rzi.u32.f32"), float(f32::NAN)), 0);
    assert_eq!(word(&line("sat.f32.f32"), float(7.0)), 1f32.to_bits());
    assert_eq!(word(&line("rna.tf32.f32"), float(1.0 + 3.0 / 2048.0)), 0x3f80_4000);
    assert_eq!(word("cvt.sat.s8.s32 %x, %a;", [300, 0, 0, 0]), 127);
    assert_eq!(word("cvt.s32.s8 %x, %a;", [0x1280, 0, 0, 0]) as i32, -128);
    let wide = "mov.b64 %w1, {%a, %b}; cvt.rn.f32.u64 %f1, %w1; mov.b32 %x, %f1;";
    assert_eq!(word(wide, [1, 1 << 31, 0, 0]), (((1u64 << 63) + 1) as f32).to_bits());
    let wide = "mov.b64 %w1, {%a, %b}; cvt.rp.f32.s64 %f1, %w1; mov.b32 %x, %f1;";
    assert_eq!(word(wide, [1, 1 << 30, 0, 0]), (2f32.powi(62)).to_bits() + 1);
}

#[test]
fn floats() {
    let two = |x: f32, y: f32| [x.to_bits(), y.to_bits(), 0, 0];
    let line = |what: &str| {
        format!("mov.b32 %f1, %a; mov.b32 %f2, %b; {what} %f3, %f1, %f2; mov.b32 %x, %f3;")
    };
    assert_eq!(word(&line("min.f32"), two(f32::NAN, 2.0)), 2f32.to_bits());
    assert!(f32::from_bits(word(&line("max.NaN.f32"), two(1.0, f32::NAN))).is_nan());
    assert_eq!(word(&line("min.f32"), two(0.0, -0.0)), (-0f32).to_bits());
    assert_eq!(word(&line("add.rz.f32"), two(1.0, -1e-20)), 0x3f7f_ffff);
    assert_eq!(word(&line("add.rp.f32"), two(1.0, 1e-20)), 0x3f80_0001);
    assert_eq!(word(&line("mul.ftz.f32"), two(1e-30, 1e-12)), 0);
    assert_ne!(word(&line("mul.f32"), two(1e-30, 1e-12)), 0);
    assert_eq!(word(&line("add.sat.f32"), two(0.75, 0.5)), 1f32.to_bits());
}

#[test]
fn comparisons() {
    let both = "setp.lt.and.s32 %p|%q, %a, %b, !%s; selp.u32 %x, 1, 0, %p; @%q add.u32 %x, %x, 2;";
    let with = |s: u32| format!("setp.ne.u32 %s, {s}, 0; {both}");
    assert_eq!(word(&with(0), [u32::MAX, 0, 0, 0]), 1);
    assert_eq!(word(&with(0), [3, 0, 0, 0]), 2);
    assert_eq!(word(&with(1), [3, 0, 0, 0]), 0);
    let float = |test: &str| {
        format!("mov.b32 %f1, %a; setp.{test}.f32 %p, %f1, %f1; selp.u32 %x, 1, 0, %p;")
    };
    let nan = [f32::NAN.to_bits(), 0, 0, 0];
    let answers =
        ["eq", "ne", "equ", "neu", "num", "nan", "geu"].map(|test| word(&float(test), nan));
    assert_eq!(answers, [0, 0, 1, 1, 0, 1, 1]);
    assert_eq!(word("set.gt.u32.s32 %x, %a, -1;", [0, 0, 0, 0]), u32::MAX);
    assert_eq!(word("slct.u32.s32 %x, %a, %b, %c;", [1, 2, 1 << 31, 0]), 2);
}

#[test]
fn scopes_and_tables_of_branches() {
    let body = "{ .reg .b32 %a; mov.u32 %a, 5; { .reg .b32 t; add.u32 t, %a, 1; mov.u32 %x, t; } \
                bra DONE; mov.u32 %x, 9; DONE: } { bra DONE; mov.u32 %x, 9; DONE: } \
                add.u32 %x, %x, %a;";
    assert_eq!(word(body, [100, 0, 0, 0]), 106);
    let body = "TABLE: .branchtargets ONE, TWO, THREE; brx.idx %a, TABLE;\n\
                ONE: mov.u32 %x, 1; bra END; TWO: mov.u32 %x, 2; bra END; THREE: mov.u32 %x, 3;\n\
                END:";
    assert_eq!([0, 1, 2].map(|i| word(body, [i, 0, 0, 0])), [1, 2, 3]);
}

#[test]
fn lanes_together() {
    let all = "redux.sync.add.s32 %x, %a, 1; match.any.sync.b32 %y, %a, 1; activemask.b32 %b; \
               vote.sync.ballot.b32 %c, 1, 1; shfl.sync.idx.b32 %d|%p, %x, 0, 31, 1; \
               add.u32 %x, %x, %y; add.u32 %x, %x, %b; add.u32 %x, %x, %c; add.u32 %x, %x, %d;";
    assert_eq!(word(all, [20, 0, 0, 0]), 43);
}
