//! Which back end this process uses, decided once.

use std::sync::OnceLock;

use super::{Tier, known_answers};

struct Choice {
    tier: Option<Tier>,
    name: &'static str,
}

/// The back end to use: the fastest one of this CPU, if it gives the known answers.
pub(crate) fn tier() -> Option<Tier> {
    choice().tier
}

/// What [`tier`] chose, in words.
pub(crate) fn name() -> &'static str {
    choice().name
}

fn choice() -> &'static Choice {
    static CHOICE: OnceLock<Choice> = OnceLock::new();
    CHOICE.get_or_init(|| choose(Tier::all().next(), known_answers::pass))
}

fn choose(fastest: Option<Tier>, passes: impl Fn(Tier) -> bool) -> Choice {
    let Some(tier) = fastest else {
        return Choice {
            tier: None,
            name: "aws-lc, one packet at a time: this CPU lacks AES-NI with AVX2 or SHA extensions",
        };
    };
    if !passes(tier) {
        return Choice {
            tier: None,
            name: "aws-lc, one packet at a time: this CPU's vector instructions gave wrong answers",
        };
    }
    Choice {
        tier: Some(tier),
        name: tier.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_back_end_is_the_one_in_use() {
        let fastest = Tier::all().next().map(Tier::name);
        assert_eq!(tier().map(Tier::name), fastest);
        assert!(fastest.is_none_or(|fastest| fastest == name()));
    }

    #[test]
    fn without_a_trusted_back_end_there_is_none_and_the_name_says_why() {
        let none = choose(None, |_| true);
        assert!(none.tier.is_none() && none.name.contains("lacks"));
        for tier in Tier::all() {
            let wrong = choose(Some(tier), |_| false);
            assert!(wrong.tier.is_none() && wrong.name.contains("wrong answers"));
        }
    }
}
