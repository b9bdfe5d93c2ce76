//! Which registers are read together.
//!
//! Values whose registers follow each other go into one request, up to the bound of the table, and over gaps where that is allowed.
//! A slave that refuses a request (exception 02 or 03) is asked for less and less until it is known which part it has not: first
//! without the gaps, then in halves. What was learnt so is kept until [`Plan::forget`].

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::map::{Point, Table};
use super::pdu::Request;

/// One request's part of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) table: Table,
    pub(super) address: u16,
    pub(super) count: u16,
    /// The values in it, by their index.
    pub(super) points: Vec<usize>,
}

impl Chunk {
    pub(super) fn request(&self) -> Request {
        Request::Read {
            table: self.table,
            address: self.address,
            count: self.count,
        }
    }

    fn range(&self) -> Range<u32> {
        u32::from(self.address)..u32::from(self.address) + u32::from(self.count)
    }
}

/// What became of a refused request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// These are asked instead.
    Split(Vec<Chunk>),
    /// This is it: its values are read no more.
    Found,
}

/// How the values of a group are read.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    table: Table,
    points: Arc<[Point]>,
    /// Indices of `points` in the order of their addresses.
    order: Vec<usize>,
    /// Registers of one request at most.
    most: u16,
    /// Registers of a gap that is read for nothing at most.
    fill: u16,
    /// What is never read, as the configuration says.
    forbidden: Vec<Range<u32>>,
    /// What the slave has refused.
    learnt: Vec<Range<u32>>,
    /// Where a search has to part requests.
    cuts: BTreeSet<u32>,
    /// Of each value, whether it is read no more.
    refused: Vec<bool>,
    chunks: Vec<Chunk>,
}

impl Plan {
    pub(super) fn new(
        table: Table,
        points: Arc<[Point]>,
        most: u16,
        fill: u16,
        forbidden: Vec<Range<u32>>,
    ) -> Self {
        let mut order: Vec<usize> = (0..points.len()).collect();
        order.sort_by_key(|index| (points[*index].address, points[*index].end()));
        let mut plan = Self {
            table,
            refused: vec![false; points.len()],
            points,
            order,
            most,
            fill,
            forbidden,
            learnt: Vec::new(),
            cuts: BTreeSet::new(),
            chunks: Vec::new(),
        };
        plan.merge();
        plan
    }

    /// What is asked in one poll.
    pub(super) fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Values that are read no more.
    pub(super) fn refused(&self) -> impl Iterator<Item = &Point> {
        let points = self.points.iter().zip(&self.refused);
        points
            .filter(|(_, refused)| **refused)
            .map(|(point, _)| point)
    }

    /// Learns from a refused request.
    pub(super) fn refuse(&mut self, chunk: &Chunk) -> Refusal {
        let gaps = self.gaps(chunk);
        if gaps.is_empty() {
            let Some(cut) = self.middle(chunk) else {
                for &point in &chunk.points {
                    self.refused[point] = true;
                }
                self.learnt.push(chunk.range());
                // The rest is read together again.
                self.cuts.clear();
                self.merge();
                return Refusal::Found;
            };
            self.cuts.insert(cut);
        } else {
            self.learnt.extend(gaps);
        }
        self.merge();
        let of_it = |part: &&Chunk| part.points.iter().any(|point| chunk.points.contains(point));
        Refusal::Split(self.chunks.iter().filter(of_it).cloned().collect())
    }

    /// Whether anything was learnt.
    pub(super) fn has_learnt(&self) -> bool {
        !self.learnt.is_empty() || !self.cuts.is_empty()
    }

    /// Begins anew, as the slave may be another one by now.
    pub(super) fn forget(&mut self) {
        self.learnt.clear();
        self.cuts.clear();
        self.refused.fill(false);
        self.merge();
    }

    fn merge(&mut self) {
        let mut chunks: Vec<Chunk> = Vec::new();
        for &index in &self.order {
            if self.refused[index] {
                continue;
            }
            let point = &self.points[index];
            let (begin, end) = (u32::from(point.address), point.end());
            if let Some(chunk) = chunks.last_mut()
                && self.fits(&chunk.range(), begin, end)
            {
                let end = end.max(chunk.range().end);
                // Within `most`.
                chunk.count = u16::try_from(end - u32::from(chunk.address)).unwrap_or(u16::MAX);
                chunk.points.push(index);
                continue;
            }
            chunks.push(Chunk {
                table: self.table,
                address: point.address,
                count: point.kind.registers(),
                points: vec![index],
            });
        }
        self.chunks = chunks;
    }

    /// Whether a value from `begin` to `end` can be read together with what is before it.
    fn fits(&self, before: &Range<u32>, begin: u32, end: u32) -> bool {
        if end.max(before.end) - before.start > u32::from(self.most) {
            return false;
        }
        if begin < before.end {
            return true;
        }
        let gap = before.end..begin;
        let holes = self.forbidden.iter().chain(&self.learnt);
        begin - before.end <= u32::from(self.fill)
            && !self.cuts.contains(&begin)
            && !holes
                .into_iter()
                .any(|hole| hole.start < gap.end && gap.start < hole.end)
    }

    /// What a request reads for nothing.
    fn gaps(&self, chunk: &Chunk) -> Vec<Range<u32>> {
        let mut gaps = Vec::new();
        let mut end = u32::from(chunk.address);
        for &index in &chunk.points {
            let begin = u32::from(self.points[index].address);
            if begin > end {
                gaps.push(end..begin);
            }
            end = end.max(self.points[index].end());
        }
        gaps
    }

    /// Where a request can be parted, nearest to the middle of its values; `None` where all of them overlap.
    fn middle(&self, chunk: &Chunk) -> Option<u32> {
        let mut end = 0;
        let mut seams = Vec::new();
        for (place, &index) in chunk.points.iter().enumerate() {
            let begin = u32::from(self.points[index].address);
            if place > 0 && begin >= end {
                seams.push((place.abs_diff(chunk.points.len() / 2), begin));
            }
            end = end.max(self.points[index].end());
        }
        seams.into_iter().min().map(|(_, begin)| begin)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::map::{Kind, Order};
    use super::*;

    pub(in super::super) fn point(address: u16, kind: Kind) -> Point {
        Point {
            series: format!("s/{address}").into(),
            address,
            kind,
            order: Order::Abcd,
            scale: 1.0,
            offset: 0.0,
            write: false,
        }
    }

    fn plan(addresses: &[u16], fill: u16) -> Plan {
        let points: Vec<Point> = addresses
            .iter()
            .map(|at| point(*at, Kind::Uint16))
            .collect();
        Plan::new(Table::Holding, points.into(), 125, fill, Vec::new())
    }

    fn asked(plan: &Plan) -> Vec<(u16, u16)> {
        plan.chunks()
            .iter()
            .map(|chunk| (chunk.address, chunk.count))
            .collect()
    }

    #[test]
    fn neighbours_are_read_together() {
        assert_eq!(asked(&plan(&[3, 1, 2, 7], 0)), [(1, 3), (7, 1)]);
        assert_eq!(asked(&plan(&[3, 1, 2, 7], 3)), [(1, 7)]);
        let all: Vec<u16> = (0..300).collect();
        assert_eq!(asked(&plan(&all, 0)), [(0, 125), (125, 125), (250, 50)]);
        assert_eq!(asked(&plan(&[65535], 0)), [(65535, 1)]);
    }

    /// A slave that has some registers and refuses whatever touches another: how many requests until nothing is refused.
    fn search(plan: &mut Plan, has: impl Fn(u32) -> bool) -> usize {
        for requests in 0..10_000 {
            let chunk = plan
                .chunks()
                .iter()
                .find(|chunk| !chunk.range().all(&has))
                .cloned();
            let Some(chunk) = chunk else {
                return requests;
            };
            plan.refuse(&chunk);
        }
        panic!("it never ends");
    }

    #[test]
    fn the_bad_register_is_found_and_the_rest_stays_together() {
        let all: Vec<u16> = (0..100).collect();
        let mut plan = plan(&all, 0);
        let requests = search(&mut plan, |register| register != 37);
        assert!(requests <= 8, "{requests}");
        let refused: Vec<u16> = plan.refused().map(|point| point.address).collect();
        assert_eq!(refused, [37]);
        assert_eq!(asked(&plan), [(0, 37), (38, 62)]);
        plan.forget();
        assert_eq!(asked(&plan), [(0, 100)]);
    }

    #[test]
    fn a_gap_that_the_slave_has_not_is_left_out() {
        let mut plan = plan(&[0, 1, 5, 6, 20], 20);
        assert_eq!(asked(&plan), [(0, 21)]);
        search(&mut plan, |register| [0, 1, 5, 6, 20].contains(&register));
        assert_eq!(asked(&plan), [(0, 2), (5, 2), (20, 1)]);
        assert_eq!(plan.refused().count(), 0);
    }

    #[test]
    fn bits_of_a_refused_register_go_together() {
        let points = [(0, Kind::Bit(0)), (0, Kind::Bit(1)), (1, Kind::Uint16)];
        let points: Vec<Point> = points.map(|(at, kind)| point(at, kind)).into();
        let mut plan = Plan::new(Table::Holding, points.into(), 125, 0, Vec::new());
        search(&mut plan, |register| register == 1);
        assert_eq!(plan.refused().count(), 2);
        assert_eq!(asked(&plan), [(1, 1)]);
    }

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![
            Just(Kind::Uint16),
            Just(Kind::Bit(3)),
            Just(Kind::Uint32),
            Just(Kind::Float64),
            (1u8..=125).prop_map(|registers| Kind::Text { registers }),
        ]
    }

    proptest! {
        /// Every value is read by one request and whole, no request is too long, nothing forbidden is read, and no register is read
        /// twice where no values overlap.
        #[test]
        fn requests_keep_their_promises(
            values in prop::collection::vec((0u16..2000, kind()), 1..80),
            holes in prop::collection::vec((0u32..2000, 1u32..40), 0..6),
            most in 125u16..=125,
            small in any::<bool>(),
            fill in 0u16..130,
        ) {
            let holes: Vec<Range<u32>> = holes.into_iter().map(|(at, length)| at..at + length).collect();
            let free = |point: &Point| {
                let (begin, end) = (u32::from(point.address), point.end());
                !holes.iter().any(|hole| hole.start < end && begin < hole.end)
            };
            let points = values.into_iter().map(|(at, kind)| point(at, kind));
            let points: Vec<Point> = points.filter(free).collect();
            let longest = points.iter().map(|point| point.kind.registers()).max().unwrap_or(1);
            let most = if small { longest } else { most };
            let plan = Plan::new(Table::Holding, points.clone().into(), most, fill, holes.clone());
            let mut read = vec![0u32; points.len()];
            let mut registers = BTreeSet::new();
            let mut twice = false;
            for chunk in plan.chunks() {
                prop_assert!((1..=most).contains(&chunk.count));
                let range = chunk.range();
                prop_assert!(!holes.iter().any(|hole| hole.start < range.end && range.start < hole.end));
                prop_assert!(plan.gaps(chunk).iter().all(|gap| gap.end - gap.start <= u32::from(fill)));
                for &index in &chunk.points {
                    read[index] += 1;
                    prop_assert!(range.start <= u32::from(points[index].address) && points[index].end() <= range.end);
                }
                twice |= range.clone().any(|register| !registers.insert(register));
            }
            prop_assert!(read.iter().all(|times| *times == 1));
            let mut sorted: Vec<&Point> = points.iter().collect();
            sorted.sort_by_key(|point| point.address);
            let overlap = sorted.windows(2).any(|pair| pair[0].end() > u32::from(pair[1].address));
            prop_assert!(overlap || !twice);
        }

        /// Whatever a slave has, what it has is read in the end, and what it has not is asked no more.
        #[test]
        fn a_search_finds_what_there_is(
            addresses in prop::collection::btree_set(0u16..150, 1..60),
            missing in prop::collection::btree_set(0u16..150, 0..12),
            fill in 0u16..20,
        ) {
            let addresses: Vec<u16> = addresses.into_iter().collect();
            let mut plan = plan(&addresses, fill);
            let has = |register: u32| !missing.iter().any(|one| u32::from(*one) == register);
            search(&mut plan, has);
            let refused: BTreeSet<u16> = plan.refused().map(|point| point.address).collect();
            let expect: BTreeSet<u16> = addresses.iter().copied().filter(|at| missing.contains(at)).collect();
            prop_assert_eq!(refused, expect);
        }
    }
}
