//! Tensors of double precision and how their elements are numbered.

/// Elements in C order.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Numbers.
    Floats(Vec<f64>),
    /// Labels, positions, bytes, keys, counters.
    Ints(Vec<i64>),
}

/// Elements with a shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Data,
}

impl Tensor {
    /// Numbers of a shape.
    pub fn floats(shape: Vec<usize>, data: Vec<f64>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Self { shape, data: Data::Floats(data) }
    }

    /// Integers of a shape.
    pub fn ints(shape: Vec<usize>, data: Vec<i64>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Self { shape, data: Data::Ints(data) }
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The elements and the shape.
    pub fn into_parts(self) -> (Vec<usize>, Data) {
        (self.shape, self.data)
    }

    /// The numbers; the graph has checked that it holds numbers.
    pub fn f(&self) -> &[f64] {
        match &self.data {
            Data::Floats(data) => data,
            Data::Ints(_) => panic!("a tensor of floats was promised"),
        }
    }

    /// The integers; the graph has checked that it holds integers.
    pub fn i(&self) -> &[i64] {
        match &self.data {
            Data::Ints(data) => data,
            Data::Floats(_) => panic!("a tensor of integers was promised"),
        }
    }

    /// The same elements in another shape.
    #[must_use]
    pub fn reshaped(&self, shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), data: self.data.clone() }
    }

    /// The shape with as many numbers.
    #[must_use]
    pub fn with(&self, data: Vec<f64>) -> Self {
        Self::floats(self.shape.clone(), data)
    }
}

/// Every index of a shape, in C order.
pub fn indices(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> + '_ {
    (0..shape.iter().product()).map(|flat| index(shape, flat))
}

/// The index of element number `flat`.
pub fn index(shape: &[usize], mut flat: usize) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        index[axis] = flat % shape[axis];
        flat /= shape[axis];
    }
    index
}

/// The number of the element at an index.
pub fn flat(shape: &[usize], index: &[usize]) -> usize {
    index.iter().zip(shape).fold(0, |flat, (&i, &size)| flat * size + i)
}

/// The number of the element of a tensor of `shape` that broadcasting puts at `index` of a larger shape.
pub fn broadcast(shape: &[usize], index: &[usize]) -> usize {
    let own = &index[index.len() - shape.len()..];
    own.iter().zip(shape).fold(0, |flat, (&i, &size)| flat * size + if size == 1 { 0 } else { i })
}

/// A shape around one axis: elements before it, along it and behind it.
pub fn around(shape: &[usize], axis: usize) -> [usize; 3] {
    [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_count_in_c_order() {
        let all: Vec<Vec<usize>> = indices(&[2, 3]).collect();
        assert_eq!(all, [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]);
        assert_eq!(indices(&[]).count(), 1);
        assert_eq!(indices(&[2, 0]).count(), 0);
        assert!(all.iter().enumerate().all(|(at, index)| flat(&[2, 3], index) == at));
    }

    #[test]
    fn broadcasting_repeats_axes_of_one() {
        assert_eq!(broadcast(&[3], &[1, 2]), 2);
        assert_eq!(broadcast(&[2, 1], &[5, 1, 2]), 1);
        assert_eq!(broadcast(&[], &[1, 2]), 0);
    }
}
