//! How a task reads its source, and the tables of addresses its tiles work from.
//!
//! Without padding the source is read where it is, unless its pixels crowd in the cache; with padding a band of it is copied, with its zeros, to scratch; in
//! both cases a pixel's segments lie at fixed distances from its first. Where a band would be too large (far dilation or
//! padding) every pixel and segment gets a pointer of its own.

use std::ops::Range;

use super::gather::{Frame, Lattice, Walk};

/// A band up to so many bytes is copied: it shares the second-level cache with the weights.
const BAND: usize = 256 << 10;
/// Tiles of a unit where no band bounds it.
const TILES: usize = 8;
/// Pixels so many bytes apart share a set of the first-level cache, which holds fewer lines than a tile has rows.
pub const SET: usize = 4096;
/// Lines that a set holds.
const WAYS: usize = 8;
/// Pixels that share a set are copied, so many bytes at a time.
const COPY: usize = 512 << 10;
/// Floats from one copied pixel to the next beside its own.
const GAP: usize = 16;

/// How the source is read; a *unit* is what tables are made for at a time.
#[derive(Debug)]
pub enum Reading {
    /// In place, so many rows at a time, across lines and images.
    InPlace { rows: usize },
    /// A copy of so many rows at a time, one segment each.
    Copied { rows: usize },
    /// A padded copy of so many result lines of one image at a time.
    Band { lines: usize },
    /// Through one pointer per pixel and segment, so many rows at a time.
    Pointers { rows: usize },
}

impl Reading {
    /// The way for this lattice, with about `wanted` units or more.
    pub fn new(lattice: &Lattice, mr: usize, wanted: usize) -> Self {
        let rows = (lattice.rows().div_ceil(wanted)).next_multiple_of(mr).clamp(mr, TILES * mr);
        if lattice.is_inside() {
            let most = COPY / ((lattice.depth() + GAP) * size_of::<f32>()) / mr * mr;
            let pitch = lattice.w.src_step * lattice.src_channels * size_of::<f32>();
            let crowded = lattice.segments() == 1 && pitch > 0 && pitch.is_multiple_of(SET) && mr > WAYS;
            if crowded && lattice.rows() > WAYS && most > 0 {
                return Self::Copied { rows: rows.min(most) };
            }
            return Self::InPlace { rows };
        }
        let fits = |lines: usize| lattice.band_len(lines).saturating_mul(size_of::<f32>()) <= BAND;
        if !fits(1) {
            return Self::Pointers { rows };
        }
        let most = (1..=lattice.h.count).rev().find(|&lines| lines == 1 || fits(lines)).unwrap_or(1);
        let all = lattice.images * lattice.h.count;
        let lines = all.div_ceil(wanted).clamp(1, most);
        // Bands of nearly equal height.
        let bands = lattice.h.count.div_ceil(lines).max(1);
        Self::Band { lines: lattice.h.count.div_ceil(bands).max(1) }
    }

    /// Units of the whole lattice.
    pub fn units(&self, lattice: &Lattice) -> usize {
        match *self {
            Self::InPlace { rows } | Self::Copied { rows } | Self::Pointers { rows } => lattice.rows().div_ceil(rows),
            Self::Band { lines } => lattice.images * lattice.h.count.div_ceil(lines),
        }
    }

    /// Result pixels of a unit.
    pub fn rows(&self, lattice: &Lattice, unit: usize) -> Range<usize> {
        match *self {
            Self::InPlace { rows } | Self::Copied { rows } | Self::Pointers { rows } => {
                unit * rows..((unit + 1) * rows).min(lattice.rows())
            }
            Self::Band { lines } => {
                let bands = lattice.h.count.div_ceil(lines);
                let (start, first) = (unit / bands * lattice.h.count, unit % bands * lines);
                let last = (first + lines).min(lattice.h.count);
                (start + first) * lattice.w.count..(start + last) * lattice.w.count
            }
        }
    }

    /// Most result pixels of a unit; those of a band are whole lines.
    pub fn most_rows(&self, lattice: &Lattice) -> usize {
        match *self {
            Self::InPlace { rows } | Self::Copied { rows } | Self::Pointers { rows } => rows,
            Self::Band { lines } => lines * lattice.w.count,
        }
    }
}

impl Reading {
    /// Whether every segment has a row of pointers of its own.
    pub fn per_segment(&self) -> bool {
        matches!(self, Self::Pointers { .. })
    }

    /// Floats of what is read beside the source: a band, or the zeros that padding points at.
    pub fn head_len(&self, lattice: &Lattice) -> usize {
        match *self {
            Self::InPlace { .. } => 0,
            Self::Copied { rows } => rows * (lattice.depth() + GAP),
            Self::Band { lines } => lattice.band_len(lines),
            Self::Pointers { .. } => lattice.segment_len(),
        }
    }

    /// Where a pixel's segments lie.
    pub fn frame(&self, lattice: &Lattice) -> Frame {
        match self {
            Self::InPlace { .. } => lattice.whole(),
            Self::Copied { .. } => lattice.listed(lattice.depth() + GAP),
            Self::Band { .. } => lattice.band(),
            Self::Pointers { .. } => lattice.pointed(),
        }
    }

    /// Makes the source of a unit, or of as many rows that lie like one, readable: copies it to `head` if it is not read
    /// where it is. Rows of a band are whole lines of one image.
    ///
    /// # Safety
    /// `source` is the lattice's source at the group's first channel; `head` has room for `head_len()` floats.
    pub unsafe fn copy(&self, lattice: &Lattice, rows: Range<usize>, source: *const f32, head: *mut f32) {
        match self {
            Self::InPlace { .. } | Self::Pointers { .. } => {}
            Self::Copied { .. } => {
                // SAFETY: the head has room for the unit's rows.
                unsafe { lattice.copy_rows(rows, source, head, lattice.depth() + GAP) };
            }
            Self::Band { .. } => {
                let first = lattice.walk(rows.start);
                // SAFETY: the head has room for a band.
                unsafe { lattice.copy_band(first.image, first.y, rows.len() / lattice.w.count, source, head) };
            }
        }
    }

    /// [`copy`](Self::copy), and the view of the unit.
    ///
    /// # Safety
    /// As `copy`.
    pub unsafe fn open(&self, lattice: &Lattice, rows: Range<usize>, source: *const f32, head: *mut f32) -> Opened {
        // SAFETY: the caller's word.
        unsafe { self.copy(lattice, rows.clone(), source, head) };
        self.opened(lattice, &rows, source, head)
    }

    /// The view of rows whose source, or its copy in `head`, is readable.
    pub fn opened(&self, lattice: &Lattice, rows: &Range<usize>, source: *const f32, head: *const f32) -> Opened {
        match self {
            Self::InPlace { .. } | Self::Pointers { .. } => Opened { memory: source, image: 0, line: 0 },
            Self::Copied { .. } => {
                Opened { memory: head.wrapping_sub(rows.start * (lattice.depth() + GAP)), image: 0, line: 0 }
            }
            Self::Band { .. } => {
                let first = lattice.walk(rows.start);
                Opened { memory: head, image: first.image, line: first.y }
            }
        }
    }

    /// Whether units are copied before they are read.
    pub fn copies(&self) -> bool {
        matches!(self, Self::Copied { .. } | Self::Band { .. })
    }
}

/// A view of one unit's source.
#[derive(Clone, Copy)]
pub struct Opened {
    memory: *const f32,
    /// What a band takes off image and line.
    image: usize,
    line: usize,
}

impl Opened {
    /// A view for no pixels.
    pub fn nothing() -> Self {
        Self { memory: std::ptr::null(), image: 0, line: 0 }
    }

    /// Start of the memory.
    pub fn memory(&self) -> *const f32 {
        self.memory
    }

    /// A pixel's first segment.
    #[inline(always)]
    pub fn pixel(&self, frame: &Frame, at: Walk) -> *const f32 {
        let at = Walk { image: at.image - self.image, y: at.y - self.line, x: at.x };
        self.memory.wrapping_offset(frame.offset(at))
    }
}

/// The scratch of one task: a band or zeros, then per tile its results, range of segments and pointers.
pub struct Tables<'a> {
    lattice: &'a Lattice,
    reading: &'a Reading,
    frame: &'a Frame,
    mr: usize,
    head: *mut f32,
    tiles: *mut u8,
    pitch: usize,
}

/// Bytes of the head, up to the first tile.
fn head_bytes(lattice: &Lattice, reading: &Reading) -> usize {
    (reading.head_len(lattice) * size_of::<f32>()).next_multiple_of(64)
}

/// Bytes of one tile: segment range, results, pointers and patches.
fn tile_bytes(lattice: &Lattice, reading: &Reading, mr: usize) -> usize {
    let per_row = match reading {
        Reading::InPlace { .. } | Reading::Copied { .. } | Reading::Band { .. } => size_of::<*const f32>(),
        Reading::Pointers { .. } => {
            lattice.segments() * (size_of::<*const f32>() + lattice.patch_len() * size_of::<f32>())
        }
    };
    (mr * (size_of::<*mut f32>() + per_row) + size_of::<(usize, usize)>()).next_multiple_of(64)
}

impl<'a> Tables<'a> {
    /// Scratch a task needs.
    pub fn bytes(lattice: &Lattice, reading: &Reading, mr: usize) -> usize {
        // A unit's rows are dealt out evenly to the fewest tiles.
        let tiles = reading.most_rows(lattice).div_ceil(mr);
        head_bytes(lattice, reading) + tiles * tile_bytes(lattice, reading, mr)
    }

    /// Tables of no tiles yet; the frame is the reading's.
    ///
    /// # Safety
    /// `scratch` has [`Tables::bytes`] bytes on a 64-byte boundary.
    pub unsafe fn new(
        lattice: &'a Lattice,
        reading: &'a Reading,
        frame: &'a Frame,
        mr: usize,
        scratch: *mut u8,
    ) -> Self {
        let head = head_bytes(lattice, reading);
        if reading.per_segment() {
            // SAFETY: the zeros are the head.
            unsafe { std::ptr::write_bytes(scratch, 0, head) };
        }
        let (tiles, pitch) = (scratch.wrapping_add(head), tile_bytes(lattice, reading, mr));
        Self { lattice, reading, frame, mr, head: scratch.cast(), tiles, pitch }
    }

    /// Makes the source of a unit's rows readable.
    ///
    /// # Safety
    /// `source` is the lattice's source at the group's first channel.
    pub unsafe fn open(&self, rows: Range<usize>, source: *const f32) -> Opened {
        // SAFETY: the caller's word.
        unsafe { self.reading.open(self.lattice, rows, source, self.head) }
    }

    /// Writes the tables of a unit's `tiles`, whose pixels are those from number `row` on, `each` per tile and one more in
    /// the first `more`; `result` gives a pixel's result, `result_pitch` the floats to its neighbour's.
    ///
    /// # Safety
    /// `opened` is this unit's source, which holds the pixels, 1 to `mr` per tile.
    pub unsafe fn fill(
        &self,
        [each, more, tiles]: [usize; 3],
        row: usize,
        opened: &Opened,
        result: impl Fn(Walk) -> *mut f32,
        result_pitch: usize,
    ) {
        let (lattice, per_segment, pixel) = (self.lattice, self.per_segment(), self.frame.pixel);
        let mut walk = lattice.walk(row);
        let (mut to, mut from, mut left) = (result(walk), opened.pixel(self.frame, walk), walk.left(lattice));
        for slot in 0..tiles {
            let (results, table) = (self.results(slot).cast_mut(), self.table(slot).cast_mut());
            let count = each + usize::from(slot < more);
            let (mut first, mut done) = (walk, 0);
            // SAFETY: a tile's tables hold `mr` rows.
            unsafe {
                while done < count {
                    if left == 0 {
                        walk.skip(walk.left(lattice), lattice);
                        (to, from, left) = (result(walk), opened.pixel(self.frame, walk), lattice.w.count);
                    }
                    if done == 0 {
                        first = Walk { x: lattice.w.count - left, ..walk };
                    }
                    let run = left.min(count - done);
                    for i in done..done + run {
                        *results.add(i) = to;
                        to = to.wrapping_add(result_pitch);
                    }
                    if !per_segment {
                        for i in done..done + run {
                            *table.add(i) = from;
                            from = from.wrapping_add(pixel);
                        }
                    }
                    left -= run;
                    done += run;
                }
                let one_image = first.image == walk.image;
                let segments = if one_image { lattice.reached(first.y, walk.y) } else { (0, lattice.segments()) };
                *self.range(slot) = segments;
                if per_segment {
                    self.point(table, first, count, opened);
                }
            }
        }
    }

    /// Writes the pointers of a tile's segments.
    ///
    /// # Safety
    /// As [`fill`](Self::fill); the tile has `count` rows from `first` on.
    unsafe fn point(&self, table: *mut *const f32, first: Walk, count: usize, opened: &Opened) {
        let lattice = self.lattice;
        let patches = table.wrapping_add(lattice.segments() * self.mr).cast::<f32>();
        for segment in 0..lattice.segments() {
            let (r, c) = lattice.position(segment);
            let mut walk = first;
            for i in 0..count {
                let patch = patches.wrapping_add((segment * self.mr + i) * lattice.patch_len());
                // SAFETY: the caller's word.
                unsafe {
                    *table.add(segment * count + i) = lattice.segment(walk, r, c, opened.memory, self.head, patch);
                }
                walk.step(lattice);
            }
        }
    }

    /// Addresses of a tile's results.
    pub fn results(&self, slot: usize) -> *const *mut f32 {
        self.range(slot).wrapping_add(1).cast_const().cast()
    }

    /// A tile's pointers.
    pub fn table(&self, slot: usize) -> *const *const f32 {
        self.results(slot).wrapping_add(self.mr).cast()
    }

    /// Segments a tile needs.
    pub fn segments(&self, slot: usize) -> *const (usize, usize) {
        self.range(slot)
    }

    fn range(&self, slot: usize) -> *mut (usize, usize) {
        self.tiles.wrapping_add(slot * self.pitch).cast()
    }

    /// Bytes from one tile's tables to the next.
    pub fn pitch(&self) -> usize {
        self.pitch
    }

    /// Whether every segment has a row of pointers of its own.
    pub fn per_segment(&self) -> bool {
        self.reading.per_segment()
    }

    /// Floats from a pixel's pointer to each segment.
    pub fn deltas(&self) -> *const isize {
        self.frame.deltas.as_ptr()
    }

    /// Floats per segment.
    pub fn segment_len(&self) -> usize {
        self.lattice.segment_len()
    }
}
