"""Benchmarks of cnnrs against other CPU libraries; `benches/README.md` says how to run them."""
