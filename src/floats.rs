//! Floats of several formats and any layout in memory, as float32: whether they are finite, and copied into C order.

/// How a number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision, rounded to the nearest float.
    F64,
}

/// Numbers with a shape and strides in bytes, at any alignment.
#[derive(Debug, Clone, Copy)]
pub struct Floats<'a> {
    /// The element whose indices are zero.
    pub data: *const u8,
    /// Sizes, outermost first.
    pub shape: &'a [usize],
    /// Bytes from one element to the next, per axis.
    pub strides: &'a [isize],
    /// What an element is.
    pub format: Format,
}

// SAFETY: an address; whoever reads through it states that it is good.
unsafe impl Send for Floats<'_> {}
// SAFETY: as above.
unsafe impl Sync for Floats<'_> {}

/// Positions of a tile's fast source axis.
const TALL: usize = 64;
/// Positions of a tile's fast result axis: a cache line.
const WIDE: usize = 16;

/// A format to read.
trait Source {
    const BYTES: usize;

    /// # Safety
    /// An element lies there, at any alignment.
    unsafe fn read(at: *const u8) -> f32;
}

struct Half;
struct Brain;
struct Single;
struct Double;

impl Source for Half {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn read(at: *const u8) -> f32 {
        // SAFETY: the caller's word.
        let bits = u32::from(unsafe { at.cast::<u16>().read_unaligned() });
        let (sign, exponent, fraction) = ((bits & 0x8000) << 16, (bits >> 10) & 0x1f, bits & 0x3ff);
        match exponent {
            // A fraction of 2^-24 units is exact in single precision.
            0 => f32::from_bits(sign | (fraction as f32 * f32::from_bits(0x3380_0000)).to_bits()),
            31 => f32::from_bits(sign | 0x7f80_0000 | (fraction << 13)),
            _ => f32::from_bits(sign | ((exponent + 112) << 23) | (fraction << 13)),
        }
    }
}

impl Source for Brain {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn read(at: *const u8) -> f32 {
        // SAFETY: the caller's word.
        f32::from_bits(u32::from(unsafe { at.cast::<u16>().read_unaligned() }) << 16)
    }
}

impl Source for Single {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn read(at: *const u8) -> f32 {
        // SAFETY: the caller's word.
        unsafe { at.cast::<f32>().read_unaligned() }
    }
}

impl Source for Double {
    const BYTES: usize = 8;

    #[inline(always)]
    unsafe fn read(at: *const u8) -> f32 {
        // SAFETY: the caller's word.
        unsafe { at.cast::<f64>().read_unaligned() as f32 }
    }
}

/// One axis: its positions, bytes between them in the source, and elements between them in the result.
#[derive(Debug, Clone, Copy)]
struct Axis {
    len: usize,
    from: isize,
    to: usize,
}

/// The axes of a C-contiguous result, those that are walked alike merged; `None` if there are no elements.
fn axes(floats: &Floats<'_>) -> Option<Vec<Axis>> {
    let mut found: Vec<Axis> = Vec::with_capacity(floats.shape.len());
    let mut to = 1;
    for (&len, &from) in floats.shape.iter().zip(floats.strides).rev() {
        match found.last_mut() {
            _ if len == 0 => return None,
            _ if len == 1 => {}
            Some(inner) if from == inner.from * inner.len as isize => inner.len *= len,
            _ => found.push(Axis { len, from, to }),
        }
        to *= len;
    }
    found.reverse();
    Some(found)
}

/// Calls `visit` with the offsets (bytes of the source, elements of the result) of all positions of the axes.
fn walk(axes: &[Axis], visit: &mut impl FnMut(isize, usize)) {
    let count: usize = axes.iter().map(|axis| axis.len).product();
    let mut index = vec![0; axes.len()];
    let (mut from, mut to) = (0, 0);
    for _ in 0..count {
        visit(from, to);
        for (place, axis) in index.iter_mut().zip(axes).rev() {
            *place += 1;
            from += axis.from;
            to += axis.to;
            if *place < axis.len {
                break;
            }
            *place = 0;
            from -= axis.from * axis.len as isize;
            to -= axis.to * axis.len;
        }
    }
}

impl Floats<'_> {
    /// Whether all numbers are finite as float32.
    ///
    /// # Safety
    /// All elements are readable, and nobody writes them meanwhile.
    pub unsafe fn all_finite(&self) -> bool {
        // SAFETY: the caller's word.
        unsafe {
            match self.format {
                Format::F16 => all_finite::<Half>(self),
                Format::BF16 => all_finite::<Brain>(self),
                Format::F32 => all_finite::<Single>(self),
                Format::F64 => all_finite::<Double>(self),
            }
        }
    }

    /// Writes the numbers in C order.
    ///
    /// # Safety
    /// All elements are readable, `dst` is writable for as many floats elsewhere, and nobody writes either meanwhile.
    pub unsafe fn copy_to(&self, dst: *mut f32) {
        let Some(axes) = axes(self) else { return };
        // SAFETY: the caller's word; the axes lead to every element of the shape.
        unsafe {
            match self.format {
                Format::F16 => copy::<Half>(self.data, axes, dst),
                Format::BF16 => copy::<Brain>(self.data, axes, dst),
                Format::F32 => copy::<Single>(self.data, axes, dst),
                Format::F64 => copy::<Double>(self.data, axes, dst),
            }
        }
    }
}

/// # Safety
/// As [`Floats::all_finite`].
unsafe fn all_finite<S: Source>(floats: &Floats<'_>) -> bool {
    let Some(mut axes) = axes(floats) else { return true };
    axes.sort_by_key(|axis| std::cmp::Reverse(axis.from.unsigned_abs()));
    let inner = axes.pop().unwrap_or(Axis { len: 1, from: S::BYTES as isize, to: 0 });
    let mut infinite = 0;
    walk(&axes, &mut |from, _| {
        let row = floats.data.wrapping_offset(from);
        // A loop of its own for neighbours, so that it becomes vector code.
        if inner.from == S::BYTES as isize {
            for index in 0..inner.len {
                // SAFETY: an element of the tensor, by its axes.
                infinite |= u32::from(!unsafe { S::read(row.wrapping_add(index * S::BYTES)) }.is_finite());
            }
        } else {
            for index in 0..inner.len as isize {
                // SAFETY: as above.
                infinite |= u32::from(!unsafe { S::read(row.wrapping_offset(index * inner.from)) }.is_finite());
            }
        }
    });
    infinite == 0
}

/// # Safety
/// As [`Floats::copy_to`], for axes in the order of the result.
unsafe fn copy<S: Source>(src: *const u8, mut axes: Vec<Axis>, dst: *mut f32) {
    let last = axes.pop().unwrap_or(Axis { len: 1, from: S::BYTES as isize, to: 1 });
    axes.sort_by_key(|axis| std::cmp::Reverse(axis.from.unsigned_abs()));
    match axes.last().copied() {
        Some(fast) if fast.from.unsigned_abs() < last.from.unsigned_abs() => {
            axes.pop();
            // SAFETY: the caller's word.
            unsafe { copy_tiles::<S>(src, &axes, fast, last, dst) };
        }
        _ => walk(&axes, &mut |from, to| {
            let (row, dst) = (src.wrapping_offset(from), dst.wrapping_add(to));
            for index in 0..last.len {
                // SAFETY: elements of the tensor and of the result, by the axes.
                unsafe { *dst.wrapping_add(index) = S::read(row.wrapping_offset(index as isize * last.from)) };
            }
        }),
    }
}

/// Copies through tiles that lie along the source's fast axis when read, and along the result's when written.
///
/// # Safety
/// As [`copy`]; `fast` and `last` are the remaining axes.
unsafe fn copy_tiles<S: Source>(src: *const u8, outer: &[Axis], fast: Axis, last: Axis, dst: *mut f32) {
    let mut tile = [[0.0f32; WIDE]; TALL];
    for column in (0..last.len).step_by(WIDE) {
        let width = WIDE.min(last.len - column);
        walk(outer, &mut |from, to| {
            for row in (0..fast.len).step_by(TALL) {
                let height = TALL.min(fast.len - row);
                let start = from + row as isize * fast.from + column as isize * last.from;
                for x in 0..width {
                    let line = src.wrapping_offset(start + x as isize * last.from);
                    for (y, numbers) in tile[..height].iter_mut().enumerate() {
                        // SAFETY: an element of the tensor, by its axes.
                        numbers[x] = unsafe { S::read(line.wrapping_offset(y as isize * fast.from)) };
                    }
                }
                let start = to + row * fast.to + column;
                for (y, numbers) in tile[..height].iter().enumerate() {
                    let line = dst.wrapping_add(start + y * fast.to);
                    // SAFETY: elements of the result, by the axes.
                    unsafe { std::ptr::copy_nonoverlapping(numbers.as_ptr(), line, width) };
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(floats: &Floats<'_>) -> Vec<f32> {
        let mut result = vec![0.0; floats.shape.iter().product()];
        // SAFETY: the tests describe vectors of their own, and the result has room.
        unsafe { floats.copy_to(result.as_mut_ptr()) };
        result
    }

    #[test]
    fn every_order_of_axes_gives_the_same_elements() {
        let (o, i, h, w) = (19usize, 3usize, 5usize, 67usize);
        let numbers: Vec<f32> = (0..o * i * h * w).map(|number| number as f32).collect();
        let strides = [i * h * w, h * w, w, 1];
        for order in [[0, 1, 2, 3], [2, 3, 1, 0], [3, 2, 1, 0], [1, 0, 3, 2], [3, 0, 1, 2]] {
            let shape = order.map(|axis| [o, i, h, w][axis]);
            let steps = order.map(|axis| 4 * strides[axis] as isize);
            let data = numbers.as_ptr().cast();
            let result = copied(&Floats { data, shape: &shape, strides: &steps, format: Format::F32 });
            let mut expected = Vec::new();
            for a in 0..shape[0] {
                for b in 0..shape[1] {
                    for c in 0..shape[2] {
                        for d in 0..shape[3] {
                            let place: usize =
                                [a, b, c, d].iter().zip(order).map(|(at, axis)| at * strides[axis]).sum();
                            expected.push(numbers[place]);
                        }
                    }
                }
            }
            assert_eq!(result.map_bits(), expected.map_bits());
        }
    }

    #[test]
    fn half_precision_is_exact() {
        let numbers: [u16; 9] = [0x3c00, 0xc000, 0x0001, 0x83ff, 0x0400, 0x7bff, 0x7c00, 0xfc00, 0x8000];
        let floats = Floats { data: numbers.as_ptr().cast(), shape: &[9], strides: &[2], format: Format::F16 };
        let tiny = 2f32.powi(-24);
        let expected =
            [1.0, -2.0, tiny, -1023.0 * tiny, 2f32.powi(-14), 65504.0, f32::INFINITY, f32::NEG_INFINITY, -0.0];
        assert_eq!(copied(&floats).map_bits(), expected.to_vec().map_bits());
        // SAFETY: an array of this function.
        assert!(!unsafe { floats.all_finite() });
        let floats = Floats { shape: &[6], ..floats };
        // SAFETY: as above.
        assert!(unsafe { floats.all_finite() });
    }

    trait MapBits {
        fn map_bits(self) -> Vec<u32>;
    }

    impl MapBits for Vec<f32> {
        fn map_bits(self) -> Vec<u32> {
            self.into_iter().map(f32::to_bits).collect()
        }
    }

    #[test]
    fn doubles_beyond_single_precision_are_not_finite() {
        let numbers = [1e38, f64::from(f32::MAX), 3.5e38];
        let floats = Floats { data: numbers.as_ptr().cast(), shape: &[2], strides: &[8], format: Format::F64 };
        // SAFETY: an array of this function.
        assert!(unsafe { floats.all_finite() });
        let floats = Floats { shape: &[2], strides: &[16], ..floats };
        // SAFETY: as above.
        assert!(!unsafe { floats.all_finite() });
    }
}
