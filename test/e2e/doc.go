// Package e2e tries the built programs as a user would: it starts them, talks
// to them by their command line and signals, and looks at what they leave.
package e2e
