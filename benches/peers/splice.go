// A splice proxy in Go: what the standard library does when both ends are TCP.
package main

import (
	"io"
	"net"
	"os"
)

func half(to, from *net.TCPConn, done chan<- struct{}) {
	io.Copy(to, from)
	to.CloseWrite()
	done <- struct{}{}
}

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		panic(err)
	}
	for {
		down, err := listener.Accept()
		if err != nil {
			continue
		}
		go func() {
			defer down.Close()
			up, err := net.Dial("tcp", os.Args[2])
			if err != nil {
				return
			}
			defer up.Close()
			done := make(chan struct{}, 2)
			go half(up.(*net.TCPConn), down.(*net.TCPConn), done)
			go half(down.(*net.TCPConn), up.(*net.TCPConn), done)
			<-done
			<-done
		}()
	}
}
