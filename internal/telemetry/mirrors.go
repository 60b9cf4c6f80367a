package telemetry

func (m *Metrics) registerMirrors() {
	m.mirrored = m.counters("nimbus_registry_mirrored_total",
		"Manifests and blobs that mirrors of registries were asked for: hit was here, fetched came from upstream, stale is what a tag was though upstream could not be asked, refused could not be had.", "kind", "outcome")
	for _, kind := range []string{"manifest", "blob"} {
		for _, outcome := range []string{"hit", "fetched", "refused"} {
			m.mirrored.WithLabelValues(kind, outcome)
		}
	}
	m.mirrored.WithLabelValues("manifest", "stale")
	m.mirrored.WithLabelValues("any", "refused")
	m.fetched = m.counter("nimbus_registry_mirror_fetched_bytes_total", "Bytes that mirrors of registries got from upstreams.")
}

// Mirrored implements registry.MirrorObserver.
func (m *Metrics) Mirrored(kind, outcome string) { m.mirrored.WithLabelValues(kind, outcome).Inc() }

// Fetched implements registry.MirrorObserver.
func (m *Metrics) Fetched(bytes int64) { m.fetched.Add(float64(bytes)) }
