//! What follows the sums of a convolution: to the same bits as step by step behind the bare convolution.

use cnnrs::function::UnaryKind;
use cnnrs::kernels::Kernel;
use cnnrs::kernels::conv::winograd::{Pack, Product};
use cnnrs::kernels::conv::{Epilogue, Forward, Geometry, PackForward, depthwise};
use cnnrs::kernels::elementwise::Unary;
use cnnrs::simd::Isa;
use cnnrs::window::Window2d;
use proptest::prelude::*;

use crate::{Operand, run, run_mapped, values};

/// One of the three kernels that convolve.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Direct,
    Winograd,
    Depthwise,
}

struct Case {
    way: Way,
    isa: Isa,
    geometry: Geometry,
    src: Operand,
    weights: Operand,
    bias: Vec<f32>,
    /// Weight, bias, mean, rstd.
    norm: [Vec<f32>; 4],
    added: Vec<f32>,
}

impl Case {
    fn new(way: Way, isa: Isa, geometry: Geometry) -> Self {
        let oc = geometry.oc;
        let weights = Operand::of(&values(2, geometry.weights_len()));
        let packed = |kernel: &dyn Kernel, len: usize| {
            run(kernel, &[weights.clone(), Operand::of(&vec![0.0f32; len])])[1].clone()
        };
        let weights = match way {
            Way::Direct => {
                let pack = PackForward::new(isa, geometry);
                packed(&pack, pack.packed_len())
            }
            Way::Winograd => {
                let pack = Pack::forward(isa, &geometry);
                packed(&pack, pack.packed_len())
            }
            Way::Depthwise => weights,
        };
        let rstd = values(7, oc).iter().map(|x| x.abs() + 0.25).collect();
        Self {
            way,
            isa,
            geometry,
            src: Operand::of(&values(1, geometry.src_len())),
            weights,
            bias: values(3, oc),
            norm: [values(4, oc), values(5, oc), values(6, oc), rstd],
            added: values(8, geometry.dst_len()),
        }
    }

    /// The kernel, whether what is added may be the memory of the result, and the length of an operand behind the result.
    fn kernel(&self, epilogue: Epilogue) -> (Box<dyn Kernel>, bool, Option<usize>) {
        match self.way {
            Way::Direct => {
                let kernel = Forward::new(self.isa, self.geometry, epilogue);
                let once = kernel.adds_in_place();
                (Box::new(kernel), once, None)
            }
            Way::Winograd => {
                let kernel = Product::forward(self.isa, &self.geometry, epilogue, true);
                let positions = Some(kernel.positions_len()).filter(|&len| len > 0);
                (Box::new(kernel), true, positions)
            }
            Way::Depthwise => {
                let kernel = depthwise::Forward::new(self.isa, self.geometry, epilogue);
                let once = kernel.adds_in_place();
                (Box::new(kernel), once, None)
            }
        }
    }

    fn run(&self, epilogue: Epilogue) -> Vec<f32> {
        let (kernel, once, behind) = self.kernel(epilogue);
        let behind = behind.map(Operand::poison::<f32>);
        let mut operands = vec![self.src.clone(), self.weights.clone()];
        if epilogue.bias {
            operands.push(Operand::of(&self.bias));
        }
        if epilogue.norm {
            operands.extend(self.norm.iter().map(|numbers| Operand::of(numbers)));
        }
        if epilogue.add {
            operands.push(Operand::of(&self.added));
        }
        assert_eq!(operands.len(), 2 + epilogue.operands());
        if epilogue.add && once {
            // The result replaces what is added.
            let added = operands.len() - 1;
            let mut map: Vec<usize> = (0..=added).chain([added]).collect();
            map.extend(behind.iter().map(|_| added + 1));
            let both: Vec<Operand> = operands.iter().chain(&behind).cloned().collect();
            let found = run_mapped(kernel.as_ref(), &both, &map)[added].get();
            operands.push(Operand::poison::<f32>(self.geometry.dst_len()));
            operands.extend(behind);
            let apart = run(kernel.as_ref(), &operands)[added + 1].get::<f32>();
            assert_eq!(bits(&found), bits(&apart), "{}, in place", kernel.name());
            return found;
        }
        let result = operands.len();
        operands.push(Operand::poison::<f32>(self.geometry.dst_len()));
        operands.extend(behind);
        run(kernel.as_ref(), &operands)[result].get()
    }

    /// The epilogue of finished sums, operation by operation.
    fn apart(&self, sums: &[f32], epilogue: Epilogue) -> Vec<f32> {
        let [weight, offset, mean, rstd] = &self.norm;
        let each = |(i, &sum): (usize, &f32)| {
            let k = i % self.geometry.oc;
            let mut y = sum;
            if epilogue.bias {
                y += self.bias[k];
            }
            if epilogue.norm {
                let (centred, scale) = (y - mean[k], weight[k] * rstd[k]);
                let fused = self.isa != Isa::Portable;
                y = if fused { centred.mul_add(scale, offset[k]) } else { centred * scale + offset[k] };
            }
            if epilogue.add {
                y += self.added[i];
            }
            y
        };
        let values: Vec<f32> = sums.iter().enumerate().map(each).collect();
        let Some(kind) = epilogue.activation else { return values };
        let kernel = Unary::new(self.isa, kind, values.len());
        run(&kernel, &[Operand::of(&values), Operand::poison::<f32>(values.len())])[1].get()
    }

    fn check(&self) {
        let sums = self.run(Epilogue::default());
        for variant in 0..24 {
            let activation = [None, Some(UnaryKind::Relu), Some(UnaryKind::Tanh)][variant / 8];
            let epilogue = Epilogue { bias: variant & 1 > 0, norm: variant & 2 > 0, add: variant & 4 > 0, activation };
            let (found, expected) = (self.run(epilogue), self.apart(&sums, epilogue));
            let what = format!("{epilogue:?} of {} on {}", self.kernel(epilogue).0.name(), self.geometry.describe());
            assert_eq!(bits(&found), bits(&expected), "{what}");
        }
    }
}

/// The bits of all numbers; a zero has no sign, since max(0, x) may choose either.
fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| (x + 0.0).to_bits()).collect()
}

fn square(k: usize, s: usize, p: usize) -> Window2d {
    Window2d { kernel: [k; 2], stride: [s; 2], dilation: [1; 2], pad: [[p; 2]; 2] }
}

fn check(way: Way, n: usize, input: [usize; 2], channels: [usize; 2], groups: usize, window: Window2d) {
    let [ic, oc] = channels;
    let geometry = Geometry::new(n, input, ic, oc, groups, window).unwrap();
    for isa in Isa::available() {
        Case::new(way, isa, geometry).check();
    }
}

#[test]
fn direct_convolutions() {
    check(Way::Direct, 2, [7, 6], [5, 40], 1, square(3, 1, 1));
    check(Way::Direct, 1, [9, 8], [3, 16], 1, square(7, 2, 3));
    check(Way::Direct, 2, [5, 5], [33, 70], 1, square(1, 1, 0));
    check(Way::Direct, 1, [9, 9], [12, 20], 4, square(3, 2, 1));
    check(Way::Direct, 13, [1, 1], [30, 17], 1, Window2d::UNIT);
    // Large weights: panels are shared out over the tasks.
    check(Way::Direct, 2, [2, 2], [520, 400], 1, square(1, 1, 0));
}

#[test]
fn direct_convolutions_with_folded_pixels() {
    for channels in 1..9 {
        check(Way::Direct, 2, [6, 8], [2, channels], 1, square(3, 1, 1));
    }
}

#[test]
fn transformed_tiles() {
    check(Way::Winograd, 2, [14, 13], [32, 48], 1, square(3, 1, 1));
    check(Way::Winograd, 1, [9, 21], [33, 37], 1, square(3, 1, 0));
    check(Way::Winograd, 9, [14, 13], [32, 40], 1, square(3, 1, 1));
    check(Way::Winograd, 1, [9, 11], [33, 37], 1, square(5, 1, 2));
    check(Way::Winograd, 3, [14, 13], [32, 40], 1, square(5, 1, 1));
}

#[test]
fn depthwise_convolutions() {
    for channels in [1, 3, 8, 15, 16, 17, 33, 48, 70] {
        check(Way::Depthwise, 2, [6, 7], [channels; 2], channels, square(3, 1, 1));
    }
    check(Way::Depthwise, 1, [9, 9], [19, 19], 19, square(5, 2, 2));
}

#[test]
fn nothing_is_left_of_an_empty_batch() {
    check(Way::Direct, 0, [4, 4], [3, 5], 1, square(3, 1, 1));
    check(Way::Depthwise, 0, [4, 4], [5, 5], 5, square(3, 1, 1));
}

/// A NaN in the source reaches the results of its windows, a NaN in what is added its own place, and none of them a
/// neighbour that shares a vector.
#[test]
fn nan_stays_in_its_windows() {
    let geometry = Geometry::new(1, [6, 6], 1, 3, 1, square(3, 1, 1)).unwrap();
    for isa in Isa::available() {
        let mut case = Case::new(Way::Direct, isa, geometry);
        let epilogue = Epilogue { bias: true, norm: true, add: true, activation: Some(UnaryKind::Relu) };
        let clean = case.run(epilogue);
        let mut src = case.src.get::<f32>();
        src[0] = f32::NAN;
        (case.src, case.added[(5 * 6 + 5) * 3 + 1]) = (Operand::of(&src), f32::NAN);
        for (i, (found, clean)) in case.run(epilogue).iter().zip(&clean).enumerate() {
            let (y, x, k) = (i / 3 / 6, i / 3 % 6, i % 3);
            let reached = (y < 2 && x < 2) || (y, x, k) == (5, 5, 1);
            assert_eq!(found.is_nan(), reached, "({y}, {x}, {k}) on {}", isa.name());
            assert!(reached || found == clean, "({y}, {x}, {k}) on {}", isa.name());
        }
    }
}

#[test]
fn names_tell_what_was_fused() {
    let geometry = Geometry::new(1, [14, 14], 64, 64, 1, square(3, 1, 1)).unwrap();
    let name = |norm, add, activation| {
        let epilogue = Epilogue { bias: true, norm, add, activation };
        [
            Forward::new(Isa::Portable, geometry, epilogue).name(),
            Product::forward(Isa::Portable, &geometry, epilogue, true).name(),
        ]
    };
    assert_eq!(name(true, true, Some(UnaryKind::Relu))[0], "conv_direct_norm_add_relu_2x16_portable");
    assert_eq!(name(false, false, None)[0], "conv_direct_2x16_portable");
    assert!(name(true, false, None)[1].starts_with("conv_winograd_norm_f4_"));
    assert!(name(false, true, Some(UnaryKind::Tanh))[1].starts_with("conv_winograd_add_tanh_f4_"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_direct_convolution(
        n in 1usize..4,
        input in (3usize..9, 3usize..9),
        channels in (1usize..24, 1usize..50),
        stride in 1usize..3,
    ) {
        check(Way::Direct, n, [input.0, input.1], [channels.0, channels.1], 1, square(3, stride, 1));
    }
}
