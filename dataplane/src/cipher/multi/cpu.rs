//! What this CPU can do: values that exist only where it was found to have the instructions.

/// AES-NI in its AVX encoding.
#[derive(Clone, Copy)]
pub(crate) struct Aesni(());

/// AES-NI and the SHA extensions.
#[derive(Clone, Copy)]
pub(crate) struct ShaNi(Aesni);

/// AES-NI and AVX2.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(Aesni);

/// AVX-512 with the vector AES instructions, AES-NI and the SHA extensions.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(ShaNi);

/// A back end, with the proof that the CPU has what it needs.
#[derive(Clone, Copy)]
pub(crate) enum Tier {
    /// Sixteen packets at once; few of them with the SHA extensions.
    Avx512(Avx512),
    /// Eight packets to encrypt, the SHA extensions on two interleaved.
    ShaNi(ShaNi),
    /// Eight packets at once.
    Avx2(Avx2),
}

impl Tier {
    /// Those of this CPU, the fastest first.
    pub(crate) fn all() -> impl Iterator<Item = Tier> {
        [
            Avx512::detect().map(Tier::Avx512),
            ShaNi::detect().map(Tier::ShaNi),
            Avx2::detect().map(Tier::Avx2),
        ]
        .into_iter()
        .flatten()
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Tier::Avx512(_) => "VAES and AVX-512, 16 packets at once",
            Tier::ShaNi(_) => "AES-NI, 8 packets at once, and the SHA extensions",
            Tier::Avx2(_) => "AES-NI and AVX2, 8 packets at once",
        }
    }

    pub(super) fn aesni(self) -> Aesni {
        match self {
            Tier::Avx512(cpu) => cpu.0.0,
            Tier::ShaNi(cpu) => cpu.0,
            Tier::Avx2(cpu) => cpu.0,
        }
    }
}

impl Aesni {
    fn detect() -> Option<Self> {
        (is_x86_feature_detected!("aes") && is_x86_feature_detected!("avx")).then_some(Aesni(()))
    }
}

impl ShaNi {
    fn detect() -> Option<Self> {
        let sha = is_x86_feature_detected!("sha")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("sse4.1");
        Aesni::detect().filter(|_| sha).map(ShaNi)
    }

    pub(super) fn aesni(self) -> Aesni {
        self.0
    }
}

impl Avx2 {
    fn detect() -> Option<Self> {
        Aesni::detect()
            .filter(|_| is_x86_feature_detected!("avx2"))
            .map(Avx2)
    }

    pub(super) fn aesni(self) -> Aesni {
        self.0
    }
}

impl Avx512 {
    fn detect() -> Option<Self> {
        let wide = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("vaes");
        ShaNi::detect().filter(|_| wide).map(Avx512)
    }

    pub(super) fn sha_ni(self) -> ShaNi {
        self.0
    }
}
