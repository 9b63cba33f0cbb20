//! Normalization and dropout.

use super::Lowering;
use crate::error::{Error, Result};
use crate::graph::Node;
use crate::graph::op::DropoutUnit;

impl Lowering<'_> {
    pub(super) fn batch_norm_train(&mut self, _node: &Node, _eps: f32, _momentum: f32) -> Result<()> {
        Err(later())
    }

    pub(super) fn batch_norm_backward(&mut self, _node: &Node) -> Result<()> {
        Err(later())
    }

    pub(super) fn batch_norm_infer(&mut self, _node: &Node, _eps: f32) -> Result<()> {
        Err(later())
    }

    pub(super) fn group_norm(&mut self, _node: &Node, _groups: usize, _eps: f32) -> Result<()> {
        Err(later())
    }

    pub(super) fn group_norm_backward(&mut self, _node: &Node, _groups: usize) -> Result<()> {
        Err(later())
    }

    pub(super) fn local_response_norm(&mut self, _node: &Node, _size: usize, _numbers: [f32; 3]) -> Result<()> {
        Err(later())
    }

    pub(super) fn local_response_norm_backward(
        &mut self,
        _node: &Node,
        _size: usize,
        _numbers: [f32; 2],
    ) -> Result<()> {
        Err(later())
    }

    pub(super) fn dropout(&mut self, _node: &Node, _p: f32, _unit: DropoutUnit, _stream: u64) -> Result<()> {
        Err(later())
    }
}

fn later() -> Error {
    Error::Unsupported("this normalization is not there yet".into())
}
