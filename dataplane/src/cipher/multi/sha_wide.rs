//! SHA-1 and SHA-256 (FIPS 180-4) over many texts at once, one in each lane of a vector.
//!
//! The same rounds for every width: `lanes256` and `lanes512` say how a vector is added, rotated
//! and combined.

/// The functions `sha1` and `sha256` over the lanes of a module, with the CPU features it needs.
macro_rules! hashes {
    ($lanes:ident, $features:literal) => {
        pub(super) mod $lanes {
            use super::super::$lanes::*;
            use super::super::{BLOCK, sha_constants};

            /// Takes `blocks` blocks of each text into its lane of the five words of `state`.
            #[target_feature(enable = $features)]
            pub(in super::super) fn sha1(
                state: &mut [[u32; LANES]; 8],
                texts: &[&[[u8; BLOCK]]; LANES],
                blocks: usize,
            ) {
                let [w0, w1, w2, w3, w4, ..] = state;
                let mut a = load(w0);
                let mut b = load(w1);
                let mut c = load(w2);
                let mut d = load(w3);
                let mut e = load(w4);
                for block in 0..blocks {
                    let before = [a, b, c, d, e];
                    let mut w = words(texts, block);
                    macro_rules! round {
                        ($f:ident, $t:expr, $a:ident, $b:ident, $c:ident, $d:ident, $e:ident) => {
                            if $t >= 16 {
                                let mixed = xor3(w[($t + 13) % 16], w[($t + 8) % 16], w[$t % 16]);
                                let mixed = xor(mixed, w[($t + 2) % 16]);
                                w[$t % 16] = rotate::<1, 31>(mixed);
                            }
                            let k = splat(sha_constants::SHA1[$t / 20]);
                            $e = add(add($e, add(w[$t % 16], k)), $f($b, $c, $d));
                            $e = add($e, rotate::<5, 27>($a));
                            $b = rotate::<30, 2>($b);
                        };
                    }
                    macro_rules! five {
                        ($f:ident, $t:expr) => {
                            round!($f, $t, a, b, c, d, e);
                            round!($f, $t + 1, e, a, b, c, d);
                            round!($f, $t + 2, d, e, a, b, c);
                            round!($f, $t + 3, c, d, e, a, b);
                            round!($f, $t + 4, b, c, d, e, a);
                        };
                    }
                    five!(choose, 0);
                    five!(choose, 5);
                    five!(choose, 10);
                    five!(choose, 15);
                    five!(xor3, 20);
                    five!(xor3, 25);
                    five!(xor3, 30);
                    five!(xor3, 35);
                    five!(majority, 40);
                    five!(majority, 45);
                    five!(majority, 50);
                    five!(majority, 55);
                    five!(xor3, 60);
                    five!(xor3, 65);
                    five!(xor3, 70);
                    five!(xor3, 75);
                    a = add(a, before[0]);
                    b = add(b, before[1]);
                    c = add(c, before[2]);
                    d = add(d, before[3]);
                    e = add(e, before[4]);
                }
                store(w0, a);
                store(w1, b);
                store(w2, c);
                store(w3, d);
                store(w4, e);
            }

            /// Takes `blocks` blocks of each text into its lane of `state`.
            #[target_feature(enable = $features)]
            pub(in super::super) fn sha256(
                state: &mut [[u32; LANES]; 8],
                texts: &[&[[u8; BLOCK]]; LANES],
                blocks: usize,
            ) {
                let [w0, w1, w2, w3, w4, w5, w6, w7] = state;
                let mut a = load(w0);
                let mut b = load(w1);
                let mut c = load(w2);
                let mut d = load(w3);
                let mut e = load(w4);
                let mut f = load(w5);
                let mut g = load(w6);
                let mut h = load(w7);
                for block in 0..blocks {
                    let before = [a, b, c, d, e, f, g, h];
                    let mut w = words(texts, block);
                    macro_rules! round {
                        ($t:expr, $i:literal, $a:ident, $b:ident, $c:ident, $d:ident,
                         $e:ident, $f:ident, $g:ident, $h:ident) => {
                            let k = splat(sha_constants::SHA256[$t + $i]);
                            $h = add($h, add(w[$i], k));
                            $h = add($h, choose($e, $f, $g));
                            $h = add(
                                $h,
                                xor3(
                                    rotate::<26, 6>($e),
                                    rotate::<21, 11>($e),
                                    rotate::<7, 25>($e),
                                ),
                            );
                            $d = add($d, $h);
                            $h = add($h, majority($a, $b, $c));
                            $h = add(
                                $h,
                                xor3(
                                    rotate::<30, 2>($a),
                                    rotate::<19, 13>($a),
                                    rotate::<10, 22>($a),
                                ),
                            );
                            if $t < 48 {
                                // The word sixteen rounds later takes this one's place.
                                let (x, y) = (w[($i + 1) % 16], w[($i + 14) % 16]);
                                let x = xor3(
                                    rotate::<25, 7>(x),
                                    rotate::<14, 18>(x),
                                    shift::<3>(x),
                                );
                                let y = xor3(
                                    rotate::<15, 17>(y),
                                    rotate::<13, 19>(y),
                                    shift::<10>(y),
                                );
                                w[$i] = add(add(w[$i], w[($i + 9) % 16]), add(x, y));
                            }
                        };
                    }
                    for t in [0, 16, 32, 48] {
                        round!(t, 0, a, b, c, d, e, f, g, h);
                        round!(t, 1, h, a, b, c, d, e, f, g);
                        round!(t, 2, g, h, a, b, c, d, e, f);
                        round!(t, 3, f, g, h, a, b, c, d, e);
                        round!(t, 4, e, f, g, h, a, b, c, d);
                        round!(t, 5, d, e, f, g, h, a, b, c);
                        round!(t, 6, c, d, e, f, g, h, a, b);
                        round!(t, 7, b, c, d, e, f, g, h, a);
                        round!(t, 8, a, b, c, d, e, f, g, h);
                        round!(t, 9, h, a, b, c, d, e, f, g);
                        round!(t, 10, g, h, a, b, c, d, e, f);
                        round!(t, 11, f, g, h, a, b, c, d, e);
                        round!(t, 12, e, f, g, h, a, b, c, d);
                        round!(t, 13, d, e, f, g, h, a, b, c);
                        round!(t, 14, c, d, e, f, g, h, a, b);
                        round!(t, 15, b, c, d, e, f, g, h, a);
                    }
                    a = add(a, before[0]);
                    b = add(b, before[1]);
                    c = add(c, before[2]);
                    d = add(d, before[3]);
                    e = add(e, before[4]);
                    f = add(f, before[5]);
                    g = add(g, before[6]);
                    h = add(h, before[7]);
                }
                store(w0, a);
                store(w1, b);
                store(w2, c);
                store(w3, d);
                store(w4, e);
                store(w5, f);
                store(w6, g);
                store(w7, h);
            }
        }
    };
}

hashes!(lanes256, "avx2");
hashes!(lanes512, "avx512f,avx512bw");
