//! Summing bytes for the Internet checksum, and copying them in the same pass, with AVX2 where the
//! CPU has it. AVX-512 was tried and was no faster: at these rates the caches set the pace. On other
//! processors the compiler makes vectors of the portable loop (NEON on aarch64).
//!
//! Bytes are added as native-order 32-bit words into 64-bit sums. A sum is therefore in memory order:
//! folding it to 16 bits gives the one's complement sum as it lies in the packet (RFC 1071 §2, byte
//! order independence). [`crate::offload::checksum`] gives meaning to the sums.

/// Adds up `data` as native-order words. An odd last byte counts as if a zero byte followed. Exact
/// for up to 2^32 bytes.
#[inline]
pub fn sum(data: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if data.len() >= avx2::WORTH && is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU was just found to have AVX2, the only precondition.
        return unsafe { avx2::sum(data) };
    }
    portable::sum(data)
}

/// Copies `src` to `dst` and returns [`sum`] of it.
///
/// # Panics
/// When the lengths differ.
#[inline]
pub fn copy_and_sum(dst: &mut [u8], src: &[u8]) -> u64 {
    assert_eq!(dst.len(), src.len(), "copy of unequal lengths");
    #[cfg(target_arch = "x86_64")]
    if src.len() >= avx2::WORTH && is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU was just found to have AVX2, the only precondition.
        return unsafe { avx2::copy_and_sum(dst, src) };
    }
    portable::copy_and_sum(dst, src)
}

/// For every CPU, and for the tails of the other.
mod portable {
    /// Bytes taken per step, one accumulator for each 32-bit word of it.
    const STEP: usize = 32;

    pub(super) fn sum(data: &[u8]) -> u64 {
        if data.len() < STEP {
            return tail(data);
        }
        let mut lanes = [0u64; STEP / 4];
        let (steps, rest) = data.as_chunks::<STEP>();
        for step in steps {
            add(&mut lanes, step);
        }
        lanes.iter().sum::<u64>() + tail(rest)
    }

    pub(super) fn copy_and_sum(dst: &mut [u8], src: &[u8]) -> u64 {
        dst.copy_from_slice(src);
        // A small block is still in the first-level cache.
        sum(src)
    }

    #[inline]
    fn add(lanes: &mut [u64; STEP / 4], step: &[u8; STEP]) {
        let (words, _) = step.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }

    /// Fewer than 128 bytes, word by word.
    #[inline]
    pub(super) fn tail(data: &[u8]) -> u64 {
        let (words, rest) = data.as_chunks::<4>();
        let mut sum = 0;
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        sum + u64::from(u32::from_ne_bytes(last))
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm_add_epi64, _mm_cvtsi128_si64, _mm_unpackhi_epi64, _mm256_add_epi64,
        _mm256_and_si256, _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_loadu_si256,
        _mm256_set1_epi64x, _mm256_setzero_si256, _mm256_srli_epi64, _mm256_storeu_si256,
    };

    use super::portable::tail;

    /// Below this many bytes the portable loop is as fast.
    pub(super) const WORTH: usize = 64;

    /// Bytes in a vector.
    const VECTOR: usize = 32;
    /// Bytes in the unrolled step.
    const STEP: usize = 4 * VECTOR;

    #[target_feature(enable = "avx2")]
    pub(super) fn sum(data: &[u8]) -> u64 {
        let mut sums = Sums::new();
        let (steps, rest) = data.as_chunks::<STEP>();
        for step in steps {
            let (vectors, _) = step.as_chunks::<VECTOR>();
            for (i, vector) in vectors.iter().enumerate() {
                sums.add(i % 2, load(vector));
            }
        }
        let (vectors, rest) = rest.as_chunks::<VECTOR>();
        for vector in vectors {
            sums.add(0, load(vector));
        }
        sums.total() + tail(rest)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn copy_and_sum(dst: &mut [u8], src: &[u8]) -> u64 {
        let mut sums = Sums::new();
        let (src_steps, src_rest) = src.as_chunks::<STEP>();
        let (dst_steps, dst_rest) = dst.as_chunks_mut::<STEP>();
        for (to, from) in dst_steps.iter_mut().zip(src_steps) {
            let (from, _) = from.as_chunks::<VECTOR>();
            let (to, _) = to.as_chunks_mut::<VECTOR>();
            for (i, (to, from)) in to.iter_mut().zip(from).enumerate() {
                let vector = load(from);
                store(to, vector);
                sums.add(i % 2, vector);
            }
        }
        let (src_vectors, src_rest) = src_rest.as_chunks::<VECTOR>();
        let (dst_vectors, dst_rest) = dst_rest.as_chunks_mut::<VECTOR>();
        for (to, from) in dst_vectors.iter_mut().zip(src_vectors) {
            let vector = load(from);
            store(to, vector);
            sums.add(0, vector);
        }
        dst_rest.copy_from_slice(src_rest);
        sums.total() + tail(src_rest)
    }

    /// Four vectors of 64-bit sums: the even and the odd 32-bit words, twice, so that additions do
    /// not wait for each other.
    struct Sums {
        low_words: __m256i,
        even: [__m256i; 2],
        odd: [__m256i; 2],
    }

    impl Sums {
        #[inline]
        #[target_feature(enable = "avx2")]
        fn new() -> Self {
            let zero = _mm256_setzero_si256();
            Sums {
                low_words: _mm256_set1_epi64x(0xffff_ffff),
                even: [zero; 2],
                odd: [zero; 2],
            }
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        fn add(&mut self, lane: usize, vector: __m256i) {
            let even = _mm256_and_si256(vector, self.low_words);
            let odd = _mm256_srli_epi64::<32>(vector);
            self.even[lane] = _mm256_add_epi64(self.even[lane], even);
            self.odd[lane] = _mm256_add_epi64(self.odd[lane], odd);
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        fn total(self) -> u64 {
            let even = _mm256_add_epi64(self.even[0], self.even[1]);
            let odd = _mm256_add_epi64(self.odd[0], self.odd[1]);
            let all = _mm256_add_epi64(even, odd);
            let low = _mm256_castsi256_si128(all);
            let high = _mm256_extracti128_si256::<1>(all);
            let two = _mm_add_epi64(low, high);
            let one = _mm_add_epi64(two, _mm_unpackhi_epi64(two, two));
            _mm_cvtsi128_si64(one).cast_unsigned()
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(from: &[u8; VECTOR]) -> __m256i {
        // SAFETY: the reference covers 32 readable bytes, and this load needs no alignment.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store(to: &mut [u8; VECTOR], vector: __m256i) {
        // SAFETY: the reference covers 32 writable bytes, and this store needs no alignment.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), vector) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::checksum::fold;
    use proptest::prelude::*;

    /// RFC 1071 §1 word by word, big-endian.
    fn reference(data: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in data.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 37 + i / 251) as u8).collect()
    }

    #[test]
    fn every_length_equals_the_reference() {
        for len in 0..700 {
            let data = pattern(len + 3);
            for offset in 0..3 {
                let data = &data[offset..offset + len];
                let expected = reference(data);
                assert_eq!(
                    fold(sum(data)).to_be(),
                    expected,
                    "sum of {len} at {offset}"
                );
                assert_eq!(
                    fold(portable::sum(data)).to_be(),
                    expected,
                    "portable, {len}"
                );
                let mut copy = vec![0; len];
                assert_eq!(fold(copy_and_sum(&mut copy, data)).to_be(), expected);
                assert_eq!(copy, data);
                copy.fill(0);
                assert_eq!(
                    fold(portable::copy_and_sum(&mut copy, data)).to_be(),
                    expected
                );
                assert_eq!(copy, data);
            }
        }
    }

    #[test]
    fn carries_survive_a_full_packet_of_ones() {
        let data = vec![0xff; 65_535];
        assert_eq!(fold(sum(&data)).to_be(), reference(&data));
        assert_eq!(sum(&data), portable::sum(&data));
    }

    #[test]
    #[should_panic(expected = "unequal lengths")]
    fn unequal_lengths_are_refused() {
        copy_and_sum(&mut [0; 4], &[0; 5]);
    }

    proptest! {
        #[test]
        fn vector_and_portable_sums_are_the_same(
            data in proptest::collection::vec(any::<u8>(), 0..4000),
            skip in 0usize..40,
        ) {
            let data = &data[skip.min(data.len())..];
            prop_assert_eq!(sum(data), portable::sum(data));
            let mut copy = vec![0; data.len()];
            prop_assert_eq!(copy_and_sum(&mut copy, data), portable::sum(data));
            prop_assert_eq!(&copy[..], data);
            prop_assert_eq!(fold(sum(data)).to_be(), reference(data));
        }
    }
}
