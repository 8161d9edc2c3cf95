// A program on libudt, to speak with: `peer serve` binds a port, prints it, and echoes one connection until the other end
// has said as many bytes as its first eight announce; `peer send HOST PORT BYTES` connects, sends that many bytes of a
// pattern after their count, and checks the echo; both exit with 0 when all was right.
#include <arpa/inet.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>
#include <udt/udt.h>

static bool all(UDTSOCKET s, char* p, int64_t n, bool out) {
    while (n > 0) {
        int part = n > 1 << 20 ? 1 << 20 : (int)n;
        int r = out ? UDT::send(s, p, part, 0) : UDT::recv(s, p, part, 0);
        if (r == UDT::ERROR) { fprintf(stderr, "%s: %s\n", out ? "send" : "recv", UDT::getlasterror().getErrorMessage()); return false; }
        p += r; n -= r;
    }
    return true;
}

int main(int argc, char** argv) {
    UDT::startup();
    UDTSOCKET s = UDT::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in a; memset(&a, 0, sizeof a);
    a.sin_family = AF_INET; a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int status = 1;
    if (argc == 2 && !strcmp(argv[1], "serve")) {
        int len = sizeof a;
        if (UDT::bind(s, (sockaddr*)&a, len) || UDT::listen(s, 4) || UDT::getsockname(s, (sockaddr*)&a, &len)) return 2;
        printf("%d\n", ntohs(a.sin_port)); fflush(stdout);
        sockaddr_in from; int fl = sizeof from;
        UDTSOCKET c = UDT::accept(s, (sockaddr*)&from, &fl);
        if (c == UDT::INVALID_SOCK) return 3;
        int64_t n = 0;
        if (all(c, (char*)&n, 8, false)) {
            std::vector<char> buf(n);
            if (all(c, buf.data(), n, false) && all(c, buf.data(), n, true)) status = 0;
        }
        UDT::close(c);
    } else if (argc == 5 && !strcmp(argv[1], "send")) {
        inet_pton(AF_INET, argv[2], &a.sin_addr); a.sin_port = htons(atoi(argv[3]));
        if (UDT::connect(s, (sockaddr*)&a, sizeof a)) { fprintf(stderr, "connect: %s\n", UDT::getlasterror().getErrorMessage()); return 3; }
        int64_t n = atoll(argv[4]);
        std::vector<char> out(n), in(n);
        for (int64_t i = 0; i < n; i++) out[i] = (char)(i * 31 + (i >> 9));
        bool sent = false;
        std::thread t([&] { sent = all(s, (char*)&n, 8, true) && all(s, out.data(), n, true); });
        bool got = all(s, in.data(), n, false);
        t.join();
        if (sent && got && in == out) status = 0;
    }
    UDT::close(s);
    UDT::cleanup();
    return status;
}
