//! The geometry of a strided copy: one description per axis, and as few axes as it can be told with.

/// Along one axis: the elements of the destination, and which of them come from the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis {
    /// Elements of the destination.
    pub size: usize,
    /// Floats from one of them to the next.
    pub dst_stride: usize,
    /// The first of them that is copied; those between and around the copied ones are filled.
    pub first: usize,
    /// Elements from one that is copied to the next, at least 1.
    pub step: usize,
    /// Elements that are copied.
    pub count: usize,
    /// Floats from one element of the source to the next; negative to read backwards, 0 to repeat one.
    pub src_stride: isize,
}

impl Axis {
    /// An axis of which every element is copied.
    pub fn dense(size: usize, dst_stride: usize, src_stride: isize) -> Self {
        Self { size, dst_stride, first: 0, step: 1, count: size, src_stride }
    }

    /// Whether every element is copied.
    pub fn is_dense(&self) -> bool {
        self.count == self.size
    }

    /// Which element of the source the destination's element `index` is; `None` if it is filled.
    pub fn source(&self, index: usize) -> Option<usize> {
        let beyond = index.checked_sub(self.first)?;
        let (at, rest) = if self.step == 1 { (beyond, 0) } else { (beyond / self.step, beyond % self.step) };
        (rest == 0 && at < self.count).then_some(at)
    }

    /// Floats from the first to the last element of the source that are read, if any are; zero or below if backwards.
    fn reach(&self) -> isize {
        self.src_stride * (self.count.max(1) as isize - 1)
    }

    /// This axis and the next inner one as one, if neighbours on both sides then follow each other at one distance.
    fn joined(&self, inner: &Self) -> Option<Self> {
        let copied = (inner.size as isize).checked_mul(inner.src_stride) == Some(self.src_stride) || self.count <= 1;
        let whole = inner.is_dense() && self.step == 1 && self.dst_stride == inner.size * inner.dst_stride;
        (whole && copied).then(|| Self {
            size: self.size * inner.size,
            dst_stride: inner.dst_stride,
            first: self.first * inner.size,
            step: 1,
            count: self.count * inner.size,
            src_stride: inner.src_stride,
        })
    }
}

/// The same copy with the fewest axes, outermost first: none for a single element that is copied.
pub fn collapse(axes: &[Axis]) -> Vec<Axis> {
    let mut result: Vec<Axis> = Vec::with_capacity(axes.len());
    for axis in axes {
        let step = if axis.count <= 1 { 1 } else { axis.step };
        let axis = Axis { step, ..*axis };
        if axis.size == 1 && axis.is_dense() {
            continue;
        }
        match result.last().and_then(|outer| outer.joined(&axis)) {
            Some(joined) => *result.last_mut().expect("there is an outer axis") = joined,
            None => result.push(axis),
        }
    }
    result
}

/// Lowest and highest float that is read, counted from the first element of the source; `None` if nothing is.
pub fn extent(axes: &[Axis]) -> Option<(isize, isize)> {
    if axes.iter().any(|axis| axis.count == 0) {
        return None;
    }
    Some(axes.iter().fold((0, 0), |(low, high), axis| (low + axis.reach().min(0), high + axis.reach().max(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_that_follow_each_other_on_both_sides_become_one() {
        // (4, 3, 5) copied as it is, out of rows of 5 and planes of 15.
        let plain = [Axis::dense(4, 15, 15), Axis::dense(3, 5, 5), Axis::dense(5, 1, 1)];
        assert_eq!(collapse(&plain), [Axis::dense(60, 1, 1)]);
        // Backwards along all axes: still one line.
        let back = [Axis::dense(4, 15, -15), Axis::dense(3, 5, -5), Axis::dense(5, 1, -1)];
        assert_eq!(collapse(&back), [Axis::dense(60, 1, -1)]);
        // Single elements vanish wherever they stand.
        let ones = [Axis::dense(1, 99, 7), Axis::dense(4, 5, 5), Axis::dense(1, 1, -3), Axis::dense(5, 1, 1)];
        assert_eq!(collapse(&ones), [Axis::dense(20, 1, 1)]);
        assert_eq!(collapse(&[Axis::dense(1, 1, 1)]), []);
    }

    #[test]
    fn a_border_of_whole_rows_joins_its_rows() {
        // One row of five before and two after three that are copied.
        let rows = Axis { size: 6, dst_stride: 5, first: 1, step: 1, count: 3, src_stride: 5 };
        let joined = Axis { size: 30, dst_stride: 1, first: 5, step: 1, count: 15, src_stride: 1 };
        assert_eq!(collapse(&[rows, Axis::dense(5, 1, 1)]), [joined]);
        // A border within the rows, or rows left out, keep them apart.
        let bordered = Axis { size: 7, first: 1, ..Axis::dense(5, 1, 1) };
        assert_eq!(collapse(&[Axis { dst_stride: 7, ..rows }, bordered]).len(), 2);
        assert_eq!(collapse(&[Axis { step: 2, ..rows }, Axis::dense(5, 1, 1)]).len(), 2);
    }

    #[test]
    fn only_chosen_elements_have_a_source() {
        let axis = Axis { size: 9, dst_stride: 1, first: 1, step: 3, count: 2, src_stride: 1 };
        let sources: Vec<Option<usize>> = (0..9).map(|index| axis.source(index)).collect();
        assert_eq!(sources, [None, Some(0), None, None, Some(1), None, None, None, None]);
    }

    #[test]
    fn the_extent_covers_both_directions() {
        let axes = [Axis::dense(3, 4, -8), Axis { count: 2, ..Axis::dense(4, 1, 2) }];
        assert_eq!(extent(&axes), Some((-16, 2)));
        assert_eq!(extent(&[Axis { count: 0, ..Axis::dense(4, 1, 2) }]), None);
    }
}
