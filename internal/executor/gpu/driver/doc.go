// Package driver reads GPUs through NVIDIA's driver, by its library NVML. That
// needs C, so what does it is in files that are built with cgo alone, for one
// program, nimbus-nvml: it is apart from the agent, which stays static and does
// not fall with a library of somebody else's.
package driver
