# Writes through CS in real mode after protected mode, where code segments cannot be written: from the first far transfer on
# they can. Boot sectors keep their variables beside their code, and firmware comes back from protected mode before them.
# mode: real
# expect: 0x16 0x1111 0x2222 0x3333 0x4444
.include "real.inc"
main:
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmp $0x20, $protected
protected:
    report $0x16
    movl %cr0, %eax
    andl $~1, %eax
    movl %eax, %cr0
    ljmp $0, $jumped
jumped:
    movl $0x1111, %cs:variable
    call show
    # A far return, to the same bytes through another base.
    pushw $0x10
    pushw $(returned - 0x100)
    lretw
returned:
    movl $0x2222, %cs:(variable - 0x100)
    # The calls are relative, and `show` needs the base of DS only.
    call show
    # An interrupt, and the return from it.
    movw $handler, (0x1000 + 0x40 * 4)
    int $0x40
    movl $0x4444, %cs:(variable - 0x100)
    call show
    finish
handler:
    movl $0x3333, %cs:variable
    call show
    iretw
show:
    movl variable, %eax
    outl %eax, $0x80
    retw
variable:
    .long 0
