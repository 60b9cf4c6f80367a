// Command job is a job for machines without a shell: "greet" says hello and
// ends with 3, "who" tells what it runs with, "wait" goes on until it is asked to
// end.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	switch os.Args[1] {
	case "greet":
		fmt.Println("hello", os.Getenv("NAME"))
		os.Exit(3)
	case "who":
		dir, err := os.Getwd()
		fmt.Println(os.Getenv("LESSON"), os.Getenv("NAME"), os.Getuid(), dir, err)
	case "wait":
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, syscall.SIGTERM)
		fmt.Println("waiting")
		<-asked
		fmt.Println("ending")
	}
}
