// Program chdb serves the ClickHouse of libchdb.so, an engine that runs in a
// process, by HTTP as a ClickHouse server does, so that tests run a real client
// against a real engine where no server can be installed. One query runs at a
// time. What it can't do: the native protocol, LZ4, users, row policies,
// replication.
//
//	chdb -lib libchdb.so -data DIR -listen 127.0.0.1:8123 [-config FILE]
package main

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"time"
)

func main() {
	lib := flag.String("lib", "", "path of libchdb.so")
	data := flag.String("data", "", "directory of the data: of one process at a time")
	listen := flag.String("listen", "127.0.0.1:8123", "address to serve on")
	config := flag.String("config", "", "configuration file of the engine")
	flag.Parse()
	if err := run(*lib, *data, *listen, *config); err != nil {
		fmt.Fprintln(os.Stderr, "chdb:", err)
		os.Exit(1)
	}
}

func run(lib, data, listen, config string) error {
	e, err := open(lib, data, config)
	if err != nil {
		return err
	}
	srv := &http.Server{Addr: listen, Handler: &door{engine: e}, ReadHeaderTimeout: 10 * time.Second}
	return srv.ListenAndServe()
}
