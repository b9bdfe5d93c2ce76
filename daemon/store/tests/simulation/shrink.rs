//! From a failing list of operations to a short one: A. Zeller, R. Hildebrandt, "Simplifying and Isolating
//! Failure-Inducing Input", IEEE TSE 28(2), 2002, without the refinement by complements of single subsets.

/// Runs that shrinking takes at most.
const RUNS: usize = 400;

/// The shortest list found for which `fails` still says why, and what it says.
pub(crate) fn shrink<T: Clone, E>(
    ops: Vec<T>,
    error: E,
    fails: impl Fn(&[T]) -> Option<E>,
) -> (Vec<T>, E) {
    let (mut best, mut why) = (ops, error);
    let mut runs = 0;
    let mut chunk = best.len().div_ceil(2);
    while chunk > 0 && runs < RUNS {
        let mut at = 0;
        let mut shorter = false;
        while at < best.len() && runs < RUNS {
            let end = (at + chunk).min(best.len());
            let without: Vec<T> = best[..at].iter().chain(&best[end..]).cloned().collect();
            runs += 1;
            match fails(&without) {
                Some(error) => {
                    (best, why) = (without, error);
                    shorter = true;
                }
                None => at = end,
            }
        }
        if !shorter || chunk > 1 {
            chunk = if chunk == 1 { 0 } else { chunk.div_ceil(2) };
        }
    }
    (best, why)
}

#[test]
fn finds_the_operations_that_matter() {
    let ops: Vec<u32> = (0..1000).collect();
    let fails = |ops: &[u32]| (ops.contains(&17) && ops.contains(&801)).then_some("both");
    assert_eq!(shrink(ops, "both", fails), (vec![17, 801], "both"));
}
