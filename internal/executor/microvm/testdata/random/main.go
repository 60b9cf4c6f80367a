// Command random prints what Go's generator of random numbers gives.
package main

import (
	"crypto/rand"
	"fmt"
)

func main() { fmt.Println(rand.Text()) }
