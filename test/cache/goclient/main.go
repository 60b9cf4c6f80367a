// Command goclient makes one call of go-actions-cache, the client that BuildKit
// has inside, in the environment of a step:
//
//	goclient save KEY FILE
//	goclient index KEY FILE           as BuildKit saves its index: KEY#1, KEY#2, …
//	goclient load FILE KEY [KEY…]     prints the key that was found
//	goclient part FILE OFFSET KEY     what ReadAt reads from there on
//
// It exits with 3 where nothing was found and with 4 where the key is taken.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"

	actionscache "github.com/tonistiigi/go-actions-cache"
)

const (
	exitMiss  = 3
	exitTaken = 4
)

var errMiss = errors.New("nothing was found")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:])
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, err)
	switch {
	case errors.Is(err, errMiss):
		os.Exit(exitMiss)
	case errors.Is(err, os.ErrExist):
		os.Exit(exitTaken)
	}
	os.Exit(1)
}

func run(ctx context.Context, args []string) error {
	c, err := actionscache.TryEnv(actionscache.Opt{})
	if err != nil {
		return err
	}
	if c == nil || len(args) < 3 {
		return errors.New("no cache in the environment, or too few arguments")
	}
	switch verb, args := args[0], args[1:]; verb {
	case "save":
		return save(args[1], func(b actionscache.Blob) error { return c.Save(ctx, args[0], b) })
	case "index":
		return save(args[1], func(b actionscache.Blob) error {
			return c.SaveMutable(ctx, args[0], 0, func(*actionscache.Entry) (actionscache.Blob, error) { return b, nil })
		})
	case "load":
		return load(ctx, c, args[0], args[1:])
	case "part":
		return part(ctx, c, args[0], args[1], args[2])
	default:
		return fmt.Errorf("what is %q?", verb)
	}
}

// file is a file as the client takes it.
type file struct {
	*os.File
	size int64
}

func (f file) Size() int64 { return f.size }

func save(path string, to func(actionscache.Blob) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return to(file{f, info.Size()})
}

func load(ctx context.Context, c *actionscache.Cache, path string, keys []string) error {
	entry, err := c.Load(ctx, keys...)
	if err != nil {
		return err
	}
	if entry == nil {
		return errMiss
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(entry.WriteTo(ctx, f), f.Close()); err != nil {
		return err
	}
	fmt.Println(entry.Key)
	return nil
}

// part reads from an offset to the end, in one request.
func part(ctx context.Context, c *actionscache.Cache, path, from, key string) error {
	offset, err := strconv.ParseInt(from, 10, 64)
	if err != nil {
		return err
	}
	entry, err := c.Load(ctx, key)
	if err != nil {
		return err
	}
	if entry == nil {
		return errMiss
	}
	content := entry.Download(ctx)
	defer content.Close()
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, io.NewSectionReader(content, offset, 1<<62))
	return errors.Join(err, f.Close())
}
