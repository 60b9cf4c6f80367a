module github.com/nimbus-ci/nimbus/tools/chdb

go 1.26.0

require github.com/ebitengine/purego v0.11.3
