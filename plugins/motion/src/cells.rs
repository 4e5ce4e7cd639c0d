//! From changed pixels to regions.
//!
//! Pixels are counted into cells of 4 × 4, and regions are cells that touch: a person whose coat
//! looks like the wall is still one region, single noisy pixels are none, and finding the regions
//! of a 320 × 240 view is a walk over 4800 cells.

/// Pixels of a cell's side.
const SIDE: usize = 4;
/// Changed pixels that make a cell one that counts, of 16.
const CHANGED: u8 = 4;
/// Pixels that are no soft shadow, of 16.
const HARD: u8 = 3;

/// A moving region, in pixels of the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) left: usize,
    pub(crate) top: usize,
    pub(crate) right: usize,
    pub(crate) bottom: usize,
    /// Pixels that have changed.
    pub(crate) area: usize,
    /// How far they are from the background, levels in all.
    pub(crate) difference: usize,
}

/// What a side of a cell counts that is a thing's; one that is the picture's counts 1.
const SIDES: u8 = 8;
const NONE: u32 = 0;
/// Cells not visited yet; regions are numbered from 1.
const ACTIVE: u32 = u32::MAX;
/// Set while a cell's own neighbours must not follow it into its region.
const FRINGE: u32 = 1 << 31;

/// Room for all steps, made once.
#[derive(Debug)]
pub(crate) struct Cells {
    width: usize,
    columns: usize,
    rows: usize,
    least: usize,
    changed: Vec<u8>,
    hard: Vec<u8>,
    filled: Vec<u8>,
    label: Vec<u32>,
    to_visit: Vec<usize>,
    regions: Vec<Region>,
}

impl Cells {
    /// For views of this size; regions of less than `least` pixels are none.
    pub(crate) fn new(width: usize, height: usize, least: usize) -> Self {
        let (columns, rows) = (width.div_ceil(SIDE), height.div_ceil(SIDE));
        let cells = columns * rows;
        Self {
            width,
            columns,
            rows,
            least: least.max(1),
            changed: vec![0; cells],
            hard: vec![0; cells],
            filled: vec![0; cells],
            label: vec![NONE; cells],
            to_visit: Vec::with_capacity(cells),
            regions: Vec::with_capacity(cells / 4 + 1),
        }
    }

    /// The regions of `changed`, the largest first, and in `moving` the pixels they consist of.
    /// `hard` are the changed pixels that are no soft shadow, if shadows are told apart.
    pub(crate) fn find(
        &mut self,
        changed: &[u8],
        hard: Option<&[u8]>,
        differences: (&[u8], &[u8]),
        moving: &mut [u8],
    ) -> &[Region] {
        count(changed, self.width, self.columns, &mut self.changed);
        match hard {
            Some(hard) => {
                count(hard, self.width, self.columns, &mut self.hard);
                self.activate_beside_hard();
                self.fill_enclosed();
            }
            None => {
                self.hard.copy_from_slice(&self.changed);
                for (label, n) in self.label.iter_mut().zip(&self.changed) {
                    *label = if *n >= CHANGED { ACTIVE } else { NONE };
                }
            }
        }
        self.regions.clear();
        for cell in 0..self.label.len() {
            if self.label[cell] == ACTIVE {
                self.grow(cell);
            }
        }
        self.add_fringe();
        self.outline(changed, differences, moving);
        self.regions
            .sort_unstable_by_key(|r| (std::cmp::Reverse(r.area), r.top, r.left));
        &self.regions
    }

    /// Cells with something in them, and changed ones beside those: of a thing with a shadow the
    /// thing, and one cell of its shadow.
    fn activate_beside_hard(&mut self) {
        for row in 0..self.rows {
            for column in 0..self.columns {
                let cell = row * self.columns + column;
                let near = self.changed[cell] >= CHANGED
                    && self
                        .around(row, column)
                        .any(|c| self.hard[c] >= HARD && self.changed[c] >= CHANGED);
                self.label[cell] = if near { ACTIVE } else { NONE };
            }
        }
    }

    /// The even middle of a thing passes for shadow; it has the thing's edges on all four sides,
    /// or on three and the picture's edge on the fourth. A real shadow does not.
    fn fill_enclosed(&mut self) {
        let (columns, rows) = (self.columns, self.rows);
        let Self {
            label,
            changed,
            filled,
            ..
        } = self;
        filled.fill(0);
        // Along an unbroken run of changed cells: did it begin at the picture's edge, and has an
        // active cell been met?
        let mut run = |cells: &mut dyn Iterator<Item = usize>| {
            let (mut border, mut met) = (true, false);
            for cell in cells {
                let on = changed[cell] >= CHANGED;
                border &= on;
                met = on && (met || label[cell] == ACTIVE);
                filled[cell] += if met { SIDES } else { u8::from(border) };
            }
        };
        for row in 0..rows {
            let line = row * columns..(row + 1) * columns;
            run(&mut line.clone());
            run(&mut line.rev());
        }
        for column in 0..columns {
            let line = || (0..rows).map(move |r| r * columns + column);
            run(&mut line());
            run(&mut line().rev());
        }
        for (label, sides) in label.iter_mut().zip(filled.iter()) {
            if *sides >= 4 * SIDES || *sides == 3 * SIDES + 1 {
                *label = ACTIVE;
            }
        }
    }

    fn around(&self, row: usize, column: usize) -> impl Iterator<Item = usize> + use<> {
        let columns = self.columns;
        let rows = row.saturating_sub(1)..(row + 2).min(self.rows);
        let across = column.saturating_sub(1)..(column + 2).min(columns);
        rows.flat_map(move |r| across.clone().map(move |c| r * columns + c))
    }

    /// Labels all cells that touch `first`. A region too small, or of too little but shadow, is
    /// wiped out again.
    fn grow(&mut self, first: usize) {
        let number = u32::try_from(self.regions.len() + 1).unwrap_or(ACTIVE - 1);
        let (mut area, mut hard) = (0, 0);
        self.label[first] = number;
        self.to_visit.clear();
        self.to_visit.push(first);
        let mut next = 0;
        while let Some(cell) = self.to_visit.get(next).copied() {
            next += 1;
            area += usize::from(self.changed[cell]);
            hard += usize::from(self.hard[cell]);
            for c in self.around(cell / self.columns, cell % self.columns) {
                if self.label[c] == ACTIVE {
                    self.label[c] = number;
                    self.to_visit.push(c);
                }
            }
        }
        if area >= self.least && 2 * hard >= self.least {
            self.regions.push(Region {
                left: usize::MAX,
                top: usize::MAX,
                right: 0,
                bottom: 0,
                area: 0,
                difference: 0,
            });
        } else {
            for cell in &self.to_visit {
                self.label[*cell] = NONE;
            }
        }
    }

    /// Cells on which a region's rim just touches belong to it, though they would make none.
    fn add_fringe(&mut self) {
        if self.regions.is_empty() {
            return;
        }
        for row in 0..self.rows {
            for column in 0..self.columns {
                let cell = row * self.columns + column;
                if self.label[cell] != NONE || self.hard[cell] == 0 {
                    continue;
                }
                let of = |c: usize| self.label[c];
                let beside = self.around(row, column).map(of);
                if let Some(label) = beside.into_iter().find(|l| (1..FRINGE).contains(l)) {
                    self.label[cell] = label | FRINGE;
                }
            }
        }
        for label in &mut self.label {
            *label &= !FRINGE;
        }
    }

    /// Fits each region's box to its pixels.
    fn outline(
        &mut self,
        changed: &[u8],
        (picture, background): (&[u8], &[u8]),
        moving: &mut [u8],
    ) {
        moving.fill(0);
        if self.regions.is_empty() {
            return;
        }
        for (y, row) in changed.chunks_exact(self.width).enumerate() {
            let labels = &self.label[y / SIDE * self.columns..];
            for (column, (cell, label)) in row.chunks(SIDE).zip(labels).enumerate() {
                if *label == NONE {
                    continue;
                }
                let Some(region) = self.regions.get_mut(*label as usize - 1) else {
                    continue;
                };
                let n: u8 = cell.iter().sum();
                if n == 0 {
                    continue;
                }
                let left = column * SIDE;
                let at = y * self.width + left..y * self.width + left + cell.len();
                moving[at.clone()].copy_from_slice(cell);
                let first = cell.iter().take_while(|c| **c == 0).count();
                let after = cell.iter().rev().take_while(|c| **c == 0).count();
                region.left = region.left.min(left + first);
                region.right = region.right.max(left + cell.len() - after);
                region.top = region.top.min(y);
                region.bottom = region.bottom.max(y + 1);
                region.area += usize::from(n);
                let levels = picture[at.clone()].iter().zip(&background[at]);
                let differences = levels.zip(cell).map(|((p, b), c)| p.abs_diff(*b) * c);
                region.difference += differences.map(usize::from).sum::<usize>();
            }
        }
    }
}

/// Ones of `mask` per cell.
fn count(mask: &[u8], width: usize, columns: usize, cells: &mut [u8]) {
    cells.fill(0);
    for (y, row) in mask.chunks_exact(width).enumerate() {
        // Most rows of most pictures are as ever.
        if !row.contains(&1) {
            continue;
        }
        let counts = &mut cells[y / SIDE * columns..];
        for (n, pixels) in counts.iter_mut().zip(row.chunks(SIDE)) {
            *n += pixels.iter().sum::<u8>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: usize = 42;
    const H: usize = 34;

    fn blank() -> Vec<u8> {
        vec![0; W * H]
    }

    fn draw(mask: &mut [u8], [l, t, r, b]: [usize; 4]) {
        for y in t..b {
            mask[y * W + l..y * W + r].fill(1);
        }
    }

    fn boxes(changed: &[u8], hard: Option<&[u8]>, least: usize) -> Vec<([usize; 4], usize)> {
        let mut moving = blank();
        let (picture, background) = (vec![40; W * H], vec![30; W * H]);
        let mut cells = Cells::new(W, H, least);
        let found = cells.find(changed, hard, (&picture, &background), &mut moving);
        let out: Vec<_> = found
            .iter()
            .map(|r| ([r.left, r.top, r.right, r.bottom], r.area))
            .collect();
        assert!(found.iter().all(|r| r.difference == 10 * r.area));
        let sum: usize = out.iter().map(|(_, area)| area).sum();
        assert_eq!(moving.iter().filter(|m| **m == 1).count(), sum);
        out
    }

    #[test]
    fn boxes_fit_their_pixels_and_the_largest_comes_first() {
        let mut changed = blank();
        draw(&mut changed, [2, 3, 9, 9]);
        draw(&mut changed, [20, 10, 41, 33]);
        assert_eq!(
            boxes(&changed, None, 20),
            [([20, 10, 41, 33], 21 * 23), ([2, 3, 9, 9], 7 * 6)]
        );
    }

    #[test]
    fn specks_are_nothing_and_small_regions_are_left_out() {
        let mut changed = blank();
        for y in (0..H).step_by(4) {
            for x in (0..W - 2).step_by(4) {
                changed[y * W + x] = 1;
                changed[(y + 1) * W + x + 2] = 1;
            }
        }
        assert!(boxes(&changed, None, 1).is_empty(), "two of 16 everywhere");
        let mut changed = blank();
        draw(&mut changed, [4, 4, 12, 8]);
        assert_eq!(boxes(&changed, None, 32).len(), 1);
        assert_eq!(boxes(&changed, None, 33).len(), 0);
    }

    #[test]
    fn a_thing_keeps_its_even_middle_and_loses_its_shadow() {
        // A thing of 16 × 24 with hard edges, and a soft shadow of 16 × 12 at its foot.
        let (thing, shadow) = ([4, 2, 20, 26], [20, 14, 40, 26]);
        let mut changed = blank();
        draw(&mut changed, thing);
        draw(&mut changed, shadow);
        let mut hard = blank();
        let [l, t, r, b] = thing;
        for y in t..b {
            for x in l..r {
                let edge = x < l + 2 || x + 2 >= r || y < t + 2 || y + 2 >= b;
                hard[y * W + x] = u8::from(edge);
            }
        }
        let found = boxes(&changed, Some(&hard), 20);
        assert_eq!(found.len(), 1);
        let ([l, t, r, b], area) = found[0];
        assert_eq!((l, t, b), (4, 2, 26));
        assert!((20..=24).contains(&r), "one cell of shadow at most: {r}");
        assert!(area >= 16 * 24, "the middle is in: {area}");
        // So does one that the picture's lower edge cuts off.
        let (mut changed, mut hard) = (blank(), blank());
        draw(&mut changed, [4, 10, 36, H]);
        for edge in [[4, 10, 36, 12], [4, 10, 6, H], [34, 10, 36, H]] {
            draw(&mut hard, edge);
        }
        let cut = boxes(&changed, Some(&hard), 20);
        assert_eq!(cut, [([4, 10, 36, H], 32 * (H - 10))]);
        // The shadow alone is nothing.
        let mut changed = blank();
        draw(&mut changed, shadow);
        assert!(boxes(&changed, Some(&blank()), 20).is_empty());
    }
}
