// Package registry_test drives the registry as its clients do: by the suite of
// OCI's specification, by real clients, and by many who push and remove while
// garbage is collected.
package registry_test
