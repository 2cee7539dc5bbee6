// A static web server for the end-to-end suite: /hello, /large, and /quit, which ends it with code 9.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	large := make([]byte, 3000000)
	for i := range large {
		large[i] = byte(uint32(i) * 7 >> 3)
	}
	http.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello from a static server\n")
	})
	http.HandleFunc("/large", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(large)))
		w.Write(large)
	})
	http.HandleFunc("/quit", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "bye\n")
		go func() {
			time.Sleep(50 * time.Millisecond)
			os.Exit(9)
		}()
	})
	fmt.Println(http.ListenAndServe("0.0.0.0:"+os.Args[1], nil))
	os.Exit(1)
}
