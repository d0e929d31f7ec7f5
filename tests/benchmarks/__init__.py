"""Speed, shown as ratios against baselines measured in the same run; `make bench` runs them. Nothing here asserts."""
