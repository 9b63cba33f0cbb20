//! Geometries and packed weights of convolutions for tests of kernels.

use cnnrs::kernels::Kernel;
use cnnrs::kernels::conv::Geometry;
use cnnrs::kernels::conv::winograd::{Pack, Product};
use cnnrs::window::Window2d;

use crate::{Operand, run, values};

/// Padded by half the kernel; `channels` are those of the input and of the output, and the groups.
pub fn geometry(kernel: usize, stride: usize, n: usize, size: [usize; 2], channels: [usize; 3]) -> Geometry {
    let pad = [[kernel / 2; 2]; 2];
    let window = Window2d { kernel: [kernel; 2], stride: [stride; 2], dilation: [1; 2], pad };
    Geometry::new(n, size, channels[0], channels[1], channels[2], window).unwrap()
}

/// The layer's weights.
fn weights(geometry: &Geometry) -> Operand {
    Operand::of(&values(2, geometry.weights_len()))
}

/// The weights as `pack` leaves them: `len` floats.
pub fn packed(pack: &dyn Kernel, geometry: &Geometry, len: usize) -> Operand {
    run(pack, &[weights(geometry), Operand::of(&vec![0.0f32; len])])[1].clone()
}

/// The weights as a product of transformed tiles takes them.
pub fn tile_weights(product: &Product, pack: &Pack, geometry: &Geometry) -> Operand {
    if product.takes_raw() { weights(geometry) } else { packed(pack, geometry, pack.packed_len()) }
}
