package s3

// CopyIn has a copy made by requests of n bytes each.
func (c Config) CopyIn(n int64) Config {
	c.copyBytes = n
	return c
}
