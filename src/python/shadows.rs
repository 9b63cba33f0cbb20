//! The same graph for other batch sizes, grown beside the one that is traced: it tells which sizes follow the batch,
//! and whether the graph can be used for another batch at all.

use crate::error::{Error, Result};
use crate::graph::{Graph, Op, ValueId, grad};
use crate::tensor::DType;

/// The other batch sizes: the smallest, and a large prime that no size of a layer is.
const BATCHES: [usize; 2] = [1, 65_521];

/// Value numbers are those of the graph that is traced.
#[derive(Clone, Default)]
pub(super) struct Shadows {
    graphs: [Graph; 2],
    /// The graph is good for the batch size it was traced with only; the graphs above are given up then.
    pub specific: bool,
}

impl Shadows {
    /// Of a graph that cannot be followed.
    pub fn lost() -> Self {
        Self { specific: true, ..Self::default() }
    }

    /// Makes the same change to both graphs, unless one refuses.
    fn both(&mut self, mut change: impl FnMut(&mut Graph, usize) -> Result<()>) {
        if self.specific {
            return;
        }
        self.specific = self.graphs.iter_mut().zip(BATCHES).any(|(graph, batch)| change(graph, batch).is_err());
        if self.specific {
            self.lose();
        }
    }

    pub fn input(&mut self, shape: &[usize], dtype: DType, batched: bool) {
        self.both(|graph, batch| {
            let mut shape = shape.to_vec();
            if batched {
                shape[0] = batch;
            }
            graph.input(shape, dtype, "", batched).map(drop)
        });
    }

    pub fn parameter(&mut self, shape: &[usize], dtype: DType) {
        self.both(|graph, _| {
            graph.parameter(shape.to_vec(), dtype, "");
            Ok(())
        });
    }

    /// A constant, of which only the shape matters here.
    pub fn constant(&mut self, shape: &[usize]) {
        self.input(shape, DType::F32, false);
    }

    pub fn add(&mut self, op: &Op, inputs: &[ValueId]) {
        self.both(|graph, _| graph.add(op.clone(), inputs, "").map(drop));
    }

    /// Follows the gradients that were appended to `traced`, behind its first `before` nodes.
    ///
    /// The large batch is differentiated itself and has to lead to the same ops; the small one, for which a rule may
    /// find fewer sums necessary, takes them over.
    pub fn gradients(
        &mut self,
        traced: &Graph,
        before: usize,
        outputs: &[ValueId],
        seeds: &[Option<ValueId>],
        wrt: &[ValueId],
    ) {
        let different = || Err(Error::Internal("the gradients depend on the batch size".into()));
        self.both(|graph, batch| {
            if batch > 1 {
                grad::gradients(graph, outputs, seeds, wrt)?;
                let same = graph.value_count() == traced.value_count()
                    && graph.nodes().len() == traced.nodes().len()
                    && graph.nodes()[before..].iter().zip(&traced.nodes()[before..]).all(|(a, b)| a.op == b.op);
                return if same { Ok(()) } else { different() };
            }
            for node in &traced.nodes()[before..] {
                constants_until(node.outputs[0].0, traced, graph)?;
                graph.add(node.op.clone(), &node.inputs, "")?;
            }
            constants_until(traced.value_count(), traced, graph)
        });
    }

    /// Gives up: the graph that is traced went a way that cannot be followed.
    pub fn lose(&mut self) {
        *self = Self::lost();
    }

    /// For each axis of a value that follows the batch, its sizes for the other batches; `None` if no axis does.
    pub fn sizes(&self, traced: &Graph, value: ValueId) -> Option<Vec<Option<[usize; 2]>>> {
        if self.specific {
            return None;
        }
        let shapes = [&self.graphs[0], &self.graphs[1]].map(|graph| &graph.value(value).shape);
        let own = traced.value(value).shape.iter().enumerate();
        let sizes: Vec<Option<[usize; 2]>> = own
            .map(|(axis, &size)| {
                let others = shapes.map(|shape| shape[axis]);
                (others != [size; 2]).then_some(others)
            })
            .collect();
        sizes.iter().any(Option::is_some).then_some(sizes)
    }
}

/// Values that rules made beside nodes are constants.
fn constants_until(count: usize, traced: &Graph, graph: &mut Graph) -> Result<()> {
    while graph.value_count() < count {
        let info = traced.value(ValueId(graph.value_count()));
        graph.input(info.shape.clone(), info.dtype, "", false)?;
    }
    Ok(())
}
